// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "models/presets_families.h"

namespace instseg {
namespace {

// What the family needs whatever the code base: P2..P6 with P6 decimated, thresholds on masks.
ModelConfig on_solo(ModelConfig config, const std::string& head) {
  config.family = "solo";
  config.neck.min_level = 2;
  config.neck.max_level = 6;
  config.neck.extra = "pool";
  config.post.score_threshold = 0.1;
  config.post.nms_threshold = 0.5;
  config.solo.head = head;
  return config;
}

// Images of another size: scales in proportion, those of the last level without an upper bound.
void set_image(ModelConfig& config, int64_t short_side, int64_t long_side, double unit) {
  config.input.short_side = short_side;
  config.input.long_side = long_side;
  config.solo.min_scales = {1, unit / 2, unit, 2 * unit, 4 * unit};
  config.solo.max_scales = {unit, 2 * unit, 4 * unit, 8 * unit, 2048};
}

// SOLOv2 has wider, shorter towers; its light form narrows them again.
void set_solov2(ModelConfig& config, bool light) {
  config.solo.convs = light ? 2 : 4;
  config.solo.channels = light ? 256 : 512;
  config.solo.mask_channels = light ? 128 : 256;
}

// ResNets of torchvision whose norms have fixed statistics and are trained, as mmdetection has them.
ModelConfig mm_config(const std::string& head, const std::string& backbone) {
  ModelConfig config = on_solo(coco_config(), head);
  config.input.channel_order = "rgb";
  config.input.mean = {123.675, 116.28, 103.53};
  config.input.std = {58.395, 57.12, 57.375};
  config.input.resize = "opencv";
  config.backbone.name = backbone;
  config.backbone.norm = "bn_eval";
  config.backbone.stride_in_1x1 = false;
  if (head == "solov2") set_solov2(config, false);
  return config;
}

ModelConfig decoupled_light(const std::string& backbone) {
  ModelConfig config = mm_config("decoupled_light", backbone);
  set_image(config, 512, 852, 64);
  config.solo.convs = 4;
  return config;
}

ModelConfig solov2_light_448(const std::string& backbone) {
  ModelConfig config = mm_config("solov2", backbone);
  set_image(config, 448, 768, 56);
  config.solo.max_scales.back() = 896;
  set_solov2(config, true);
  return config;
}

constexpr const char* kMultiScale = "short sides 640..800, 3x";
constexpr const char* kLight512 = "light, short side 512, 3x";
constexpr const char* kLight448 = "light, short side 448, 3x";

Preset make_preset(const std::string& name, const std::string& title, const std::string& note,
                   ModelConfig config) {
  Preset preset;
  preset.name = name;
  preset.description = title + ", " + config.backbone.name + ", " + note;
  preset.config = std::move(config);
  return preset;
}

// ---- The authors' repository, which is mmdetection 1.0 ----

Preset released(const std::string& name, const std::string& file, const std::string& title,
                const std::string& note, ModelConfig config, double mask_ap) {
  config.solo.inclusive_boxes = true;
  Preset preset = make_preset(name, title, note, std::move(config));
  set_published(preset, "https://huggingface.co/xinlongwang/SOLO/resolve/main/" + file + ".pth", 0, mask_ap);
  return preset;
}

// A head at short side 800 with the mask AP of R50 1x, R50 3x and R101 3x.
std::vector<Preset> three_rows(const std::string& head, const std::string& stem, const std::string& file,
                               const std::string& title, const std::vector<double>& mask_ap) {
  const std::string r50 = "resnet50", r101 = "resnet101";
  return {
      released(stem + "_R50_1x", file + "_R50_1x", title, "1x", mm_config(head, r50), mask_ap[0]),
      released(stem + "_R50_3x", file + "_R50_3x", title, kMultiScale, mm_config(head, r50), mask_ap[1]),
      released(stem + "_R101_3x", file + "_R101_3x", title, kMultiScale, mm_config(head, r101), mask_ap[2]),
  };
}

Preset light_448(const std::string& depth, double mask_ap) {
  return released("solov2_light_448_R" + depth + "_3x", "SOLOv2_LIGHT_448_R" + depth + "_3x", "SOLOv2",
                  kLight448, solov2_light_448("resnet" + depth), mask_ap);
}

// ---- SOLOv2 on detectron2 ----

Preset detectron2_solov2(const std::string& depth, double mask_ap) {
  ModelConfig config = on_solo(coco_config(), "solov2");
  config.backbone.name = "resnet" + depth;
  config.solo.mask_frame = "image";
  set_solov2(config, false);
  Preset preset =
      make_preset("adet_solov2_R" + depth + "_3x", "SOLOv2 of AdelaiDet", kMultiScale, std::move(config));
  set_published(preset, "https://huggingface.co/ZjuCv/AdelaiDet/resolve/main/SOLOv2_R" + depth + "_3x.pth", 0,
                mask_ap);
  return preset;
}

// ---- mmdetection 2 and later ----

Preset mmdet(const std::string& name, const std::string& file, const std::string& title,
             const std::string& note, ModelConfig config, double mask_ap) {
  Preset preset = make_preset("mmdet_" + name, title + " of mmdetection", note, std::move(config));
  // A file lies in a folder of its name without date and hash.
  const std::string folder = file.substr(0, file.find("_coco")) + "_coco/";
  const std::string family = file.starts_with("solov2") ? "solov2/" : "solo/";
  set_published(preset, "https://download.openmmlab.com/mmdetection/v2.0/" + family + folder + file + ".pth",
                0, mask_ap);
  return preset;
}

std::vector<Preset> mmdet_presets() {
  const std::string r50 = "resnet50", solo = "SOLO", decoupled = "Decoupled SOLO", v2 = "SOLOv2";
  return {
      mmdet("solo_r50_1x", "solo_r50_fpn_1x_coco_20210821_035055-2290a6b8", solo, "1x",
            mm_config("solo", r50), 33.1),
      mmdet("solo_r50_3x", "solo_r50_fpn_3x_coco_20210901_012353-11d224d7", solo, kMultiScale,
            mm_config("solo", r50), 35.9),
      mmdet("decoupled_solo_r50_1x", "decoupled_solo_r50_fpn_1x_coco_20210820_233348-6337c589", decoupled,
            "1x", mm_config("decoupled", r50), 33.9),
      mmdet("decoupled_solo_r50_3x", "decoupled_solo_r50_fpn_3x_coco_20210821_042504-7b3301ec", decoupled,
            kMultiScale, mm_config("decoupled", r50), 36.7),
      mmdet("decoupled_solo_light_r50_3x", "decoupled_solo_light_r50_fpn_3x_coco_20210906_142703-e70e226f",
            decoupled, kLight512, decoupled_light(r50), 32.9),
      mmdet("solov2_r50_1x", "solov2_r50_fpn_1x_coco_20220512_125858-a357fa23", v2, "1x",
            mm_config("solov2", r50), 34.8),
      mmdet("solov2_r50_3x", "solov2_r50_fpn_3x_coco_20220512_125856-fed092d4", v2, kMultiScale,
            mm_config("solov2", r50), 37.5),
      mmdet("solov2_light_r18_3x", "solov2_light_r18_fpn_3x_coco_20220511_083717-75fa355b", v2, kLight448,
            solov2_light_448("resnet18"), 29.7),
      mmdet("solov2_light_r50_3x", "solov2_light_r50_fpn_3x_coco_20220512_165256-c93a6074", v2, kLight448,
            solov2_light_448(r50), 33.7),
  };
}

// ---- Small devices: no published weights ----

Preset lite(const std::string& head, int size, int64_t convs, int64_t short_side, int64_t channels) {
  // The level count is that of FCOS, whose fields are of no use here.
  ModelConfig config = on_solo(lite_config(size, convs, 7, short_side), head);
  config.head = HeadConfig{};
  set_image(config, config.input.short_side, config.input.long_side, static_cast<double>(short_side) / 8);
  config.solo.convs = convs;
  config.solo.channels = 128;
  if (head == "solov2") {
    config.solo.mask_channels = channels;
    config.solo.branch_channels = channels;
  }
  Preset preset;
  preset.name = (head == "solov2" ? "solov2_lite" : "decoupled_solo_light_lite") + std::to_string(size);
  preset.description = std::string(head == "solov2" ? "SOLOv2" : "Decoupled SOLO, light,") +
                       " for small devices, EfficientNet-Lite" + std::to_string(size) + ", short side " +
                       std::to_string(short_side);
  preset.config = std::move(config);
  return preset;
}

}  // namespace

std::vector<Preset> solo_presets() {
  std::vector<Preset> list;
  const auto add = [&list](const std::vector<Preset>& more) {
    list.insert(list.end(), more.begin(), more.end());
  };
  add(three_rows("solo", "solo", "SOLO", "SOLO", {32.9, 35.8, 37.1}));
  add(three_rows("decoupled", "decoupled_solo", "DECOUPLED_SOLO", "Decoupled SOLO", {33.9, 36.4, 37.9}));
  add({released("decoupled_solo_light_R50_3x", "DECOUPLED_SOLO_LIGHT_R50_3x", "Decoupled SOLO", kLight512,
                decoupled_light("resnet50"), 33.0)});
  add(three_rows("solov2", "solov2", "SOLOv2", "SOLOv2", {34.8, 37.5, 39.1}));
  add({light_448("18", 29.6), light_448("34", 32.0), light_448("50", 33.7)});
  add({detectron2_solov2("50", 37.6), detectron2_solov2("101", 39.0)});
  add(mmdet_presets());
  for (const std::string head : {"decoupled_light", "solov2"}) {
    add({lite(head, 0, 2, 320, 64), lite(head, 1, 3, 416, 96), lite(head, 2, 4, 512, 128)});
  }
  return list;
}

}  // namespace instseg
