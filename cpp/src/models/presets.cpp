// SPDX-License-Identifier: Apache-2.0
#include "instseg/presets.h"

#include "instseg/error.h"
#include "io/closest.h"
#include "io/strict_json.h"
#include "models/coco_classes.h"
#include "models/presets_families.h"

namespace instseg {
namespace {

std::vector<Preset> make_presets() {
  std::vector<Preset> list;
  for (const auto& family : {fcos_presets(), blendmask_presets(), condinst_presets(), solo_presets()}) {
    list.insert(list.end(), family.begin(), family.end());
  }
  for (const Preset& preset : list) preset.config.check();
  return list;
}

}  // namespace

ModelConfig coco_config() {
  ModelConfig config;
  config.class_names = coco_class_names();
  config.category_ids = coco_category_ids();
  return config;
}

void set_published(Preset& preset, const std::string& url, double box_ap, double mask_ap) {
  preset.weights_url = url;
  preset.weights_file = url.substr(url.rfind('/') + 1);
  preset.box_ap = box_ap;
  preset.mask_ap = mask_ap;
}

const std::vector<Preset>& presets() {
  static const std::vector<Preset> list = make_presets();
  return list;
}

const Preset& find_preset(const std::string& name) {
  std::vector<std::string> names;
  for (const Preset& preset : presets()) {
    if (preset.name == name) return preset;
    names.push_back(preset.name);
  }
  const std::vector<std::string> close = closest_names(name, names);
  throw ValueError(join("[find_preset] no preset '", printable(name), "'; ",
                        close.empty() ? "the presets are " : "did you mean ",
                        comma_list(close.empty() ? names : close), close.empty() ? "" : "?"));
}

}  // namespace instseg
