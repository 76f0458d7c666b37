// SPDX-License-Identifier: Apache-2.0
#include "models/presets_families.h"

namespace instseg {
namespace {

// BlendMask works on an FCOS without scales that thresholds p * c.
ModelConfig on_fcos(ModelConfig config) {
  config.family = "blendmask";
  config.head.scale = false;
  config.post.threshold_on = "product";
  return config;
}

Preset blendmask(const std::string& row, const std::string& backbone, const std::string& note) {
  Preset preset;
  preset.name = "blendmask_" + row;
  preset.description = "BlendMask, " + backbone + ", " + note;
  preset.config = on_fcos(coco_config());
  preset.config.backbone.name = backbone;
  return preset;
}

// The same with weights of the authors.
Preset released(Preset preset, const std::string& file, double box_ap, double mask_ap) {
  set_published(preset, "https://huggingface.co/ZjuCv/AdelaiDet/resolve/main/" + file, box_ap, mask_ap);
  return preset;
}

// Fast variants: one tower for classes and boxes, a shorter bottom module, fewer levels, smaller images.
Preset fast(Preset preset, int64_t max_level, int64_t short_side, int64_t long_side) {
  ModelConfig& config = preset.config;
  config.input.short_side = short_side;
  config.input.long_side = long_side;
  config.neck.max_level = max_level;
  config.head.share_convs = 3;
  config.head.cls_convs = 0;
  config.head.box_convs = 0;
  config.targets.sizes_of_interest.resize(static_cast<size_t>(max_level - config.neck.min_level));
  config.blendmask.branch_convs = 2;
  return preset;
}

Preset fast_550(const std::string& row, const std::string& note) {
  return fast(blendmask(row, "resnet50", "short side 550, " + note), 6, 550, 916);
}

// Trained BatchNorm in the whole backbone.
Preset real_time(const std::string& row, const std::string& head_norm, const std::string& note) {
  Preset preset = fast(blendmask(row, "resnet50", "real-time, 4x, shared tower, " + note), 5, 512, 736);
  preset.config.backbone.norm = "bn";
  preset.config.backbone.freeze = 0;
  preset.config.head.norm = head_norm;
  return preset;
}

// The People in Context data set: one class, started from weights of COCO. Its AP is no COCO AP.
Preset person() {
  Preset preset =
      blendmask("Person_R_50_1x", "resnet50", "persons of PIC, 1x: box AP 70.6, mask AP 66.7 on PIC");
  preset.config.num_classes = 1;
  preset.config.class_names = {"person"};
  preset.config.category_ids.clear();
  return preset;
}

Preset lite(int size, int64_t convs, int64_t max_level, int64_t short_side, int64_t channels,
            const std::string& note) {
  Preset preset;
  preset.name = "blendmask_lite" + std::to_string(size);
  preset.description = "BlendMask for small devices, EfficientNet-Lite" + std::to_string(size) + ", " + note;
  preset.config = on_fcos(lite_config(size, convs, max_level, short_side));
  preset.config.blendmask.branch_channels = channels;
  preset.config.blendmask.branch_convs = 2;
  // Objects of small images need no finer attention.
  if (size == 0) preset.config.blendmask.attention_size = 7;
  return preset;
}

}  // namespace

std::vector<Preset> blendmask_presets() {
  return {
      released(blendmask("R_50_1x", "resnet50", "short sides 640..800, 1x"), "R_50_1x.pth", 39.9, 35.8),
      released(blendmask("R_50_3x", "resnet50", "short sides 640..800, 3x"), "R_50_3x.pth", 42.7, 37.8),
      released(blendmask("R_101_3x", "resnet101", "short sides 640..800, 3x"), "R_101_3x.pth", 44.8, 39.5),
      fast_550("550_R_50_1x", "1x"),
      released(fast_550("550_R_50_3x", "3x"), "550_R_50_3x.pth", 38.7, 34.5),
      released(real_time("RT_R_50_4x_syncbn_shtw", "gn", "GroupNorm head"), "RT_R_50_4x_syncbn_shtw.pth",
               39.3, 35.1),
      released(real_time("RT_R_50_4x_bn_head_syncbn_shtw", "bn", "one BatchNorm per level in the head"),
               "RT_R_50_4x_bn-head_syncbn_shtw.pth", 39.3, 35.1),
      person(),
      lite(0, 2, 5, 320, 64, "3 levels"),
      lite(1, 3, 6, 416, 96, "4 levels"),
      lite(2, 4, 7, 512, 128, "5 levels"),
  };
}

}  // namespace instseg
