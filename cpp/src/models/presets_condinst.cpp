// SPDX-License-Identifier: Apache-2.0
#include "models/presets_families.h"

namespace instseg {
namespace {

constexpr const char* kHub = "https://huggingface.co/tianzhi/AdelaiDet-";

// CondInst works on an FCOS that thresholds p * c.
ModelConfig on_fcos(ModelConfig config) {
  config.family = "condinst";
  config.post.threshold_on = "product";
  return config;
}

Preset condinst(const std::string& row, const std::string& backbone, const std::string& schedule) {
  Preset preset;
  preset.name = "condinst_" + row;
  preset.description = "CondInst, " + backbone + ", short sides 640..800, " + schedule;
  preset.config = on_fcos(coco_config());
  preset.config.backbone.name = backbone;
  return preset;
}

// With an auxiliary semantic task in training.
Preset semantic(Preset preset) {
  preset.description += ", semantic task";
  preset.config.condinst.semantic = true;
  return preset;
}

// CondInst learned from boxes: more mask features and the best positives only.
Preset boxinst(const std::string& row, const std::string& backbone, const std::string& schedule) {
  Preset preset = condinst(row, backbone, schedule);
  preset.name = "boxinst_" + row;
  preset.description = "BoxInst, " + backbone + ", masks from boxes, short sides 640..800, " + schedule;
  preset.config.condinst.mask_channels = 16;
  preset.config.condinst.supervision = "boxes";
  preset.config.condinst.max_proposals = 0;
  preset.config.condinst.topk_per_image = 64;
  return preset;
}

// The same with weights of the authors.
Preset released(Preset preset, const std::string& repository, const std::string& file, double box_ap,
                double mask_ap) {
  set_published(preset, kHub + repository + "/resolve/main/" + repository + "_" + file + ".pth", box_ap,
                mask_ap);
  return preset;
}

// mmdetection's rendition: RGB input, a backbone whose affine norms are trained, its own post-processing.
Preset mmdet_condinst() {
  const std::string stem = "condinst_r50_fpn_ms-poly-90k_coco_instance";
  Preset preset;
  preset.name = "mmdet_condinst_r50_1x";
  preset.description = "CondInst of mmdetection, resnet50, short sides 640..800, 1x";
  set_published(preset,
                "https://download.openmmlab.com/mmdetection/v3.0/condinst/" + stem + "/" + stem +
                    "_20221129_125223-4c186406.pth",
                39.8, 36.0);
  ModelConfig& config = preset.config;
  config = mmdet_config("resnet50", true);
  config.family = "condinst";
  config.input.channel_order = "rgb";
  config.input.mean = {123.675, 116.28, 103.53};
  config.input.std = {58.395, 57.12, 57.375};
  config.backbone.norm = "bn_eval";
  config.backbone.stride_in_1x1 = false;
  config.condinst.max_proposals = 0;
  config.condinst.max_proposals_per_image = 300;
  config.condinst.dice_eps = 5e-6;
  return preset;
}

Preset lite(int size, int64_t convs, int64_t max_level, int64_t short_side, int64_t channels,
            const std::string& note) {
  Preset preset;
  preset.name = "condinst_lite" + std::to_string(size);
  preset.description = "CondInst for small devices, EfficientNet-Lite" + std::to_string(size) + ", " + note;
  preset.config = on_fcos(lite_config(size, convs, max_level, short_side));
  preset.config.condinst.branch_channels = channels;
  preset.config.condinst.branch_convs = convs;
  return preset;
}

}  // namespace

std::vector<Preset> condinst_presets() {
  const std::string r50 = "resnet50", r101 = "resnet101", cond = "CondInst", box = "BoxInst";
  return {
      released(condinst("MS_R_50_1x", r50, "1x"), cond, "MS_R_50_1x", 39.7, 35.7),
      released(condinst("MS_R_50_3x", r50, "3x"), cond, "MS_R_50_3x", 41.9, 37.5),
      released(semantic(condinst("MS_R_50_3x_sem", r50, "3x")), cond, "MS_R_50_3x_sem", 42.6, 38.2),
      condinst("MS_R_101_1x", r101, "1x"),
      released(condinst("MS_R_101_3x", r101, "3x"), cond, "MS_R_101_3x", 43.3, 38.6),
      released(semantic(condinst("MS_R_101_3x_sem", r101, "3x")), cond, "MS_R_101_3x_sem", 44.6, 39.8),
      released(boxinst("MS_R_50_1x", r50, "1x"), box, "MS_R_50_1x", 39.4, 30.7),
      released(boxinst("MS_R_50_3x", r50, "3x"), box, "MS_R_50_3x", 41.5, 31.8),
      released(boxinst("MS_R_101_1x", r101, "1x"), box, "MS_R_101_1x", 41.4, 32.2),
      released(boxinst("MS_R_101_3x", r101, "3x"), box, "MS_R_101_3x", 43.3, 33.0),
      mmdet_condinst(),
      lite(0, 2, 5, 320, 64, "3 levels"),
      lite(1, 3, 6, 416, 96, "4 levels"),
      lite(2, 4, 7, 512, 128, "5 levels"),
  };
}

}  // namespace instseg
