// SPDX-License-Identifier: Apache-2.0
#include "models/coco_classes.h"
#include "models/presets_families.h"

namespace instseg {
namespace {

// ---- FCOS as its authors published it: the defaults of config.h ----

Preset fcos(const std::string& row, const std::string& backbone, double ap, const std::string& note) {
  Preset preset;
  preset.name = "fcos_" + row;
  preset.description = "FCOS, " + backbone + ", " + note;
  set_published(preset, "https://huggingface.co/tianzhi/AdelaiDet-FCOS/resolve/main/FCOS_" + row + ".pth",
                ap);
  preset.config = coco_config();
  preset.config.backbone.name = backbone;
  return preset;
}

// The centerness branch predicts the IoU of the box instead.
Preset fcos_iou(const std::string& row, const std::string& backbone, double ap, const std::string& note) {
  Preset preset = fcos(row, backbone, ap, note + ", IoU quality");
  preset.config.head.quality = "iou";
  preset.config.loss.weight_by_centerness = false;
  return preset;
}

// Real-time variant: three levels and small images.
Preset fcos_rt(const std::string& row, const std::string& head_norm, double ap, const std::string& note) {
  Preset preset = fcos(row, "resnet50", ap, "real-time, 4x, " + note);
  preset.config.input.short_side = 512;
  preset.config.input.long_side = 736;
  preset.config.backbone.norm = "bn";
  preset.config.neck.max_level = 5;
  preset.config.head.norm = head_norm;
  preset.config.targets.sizes_of_interest = {64, 128};
  return preset;
}

// ---- FCOS of torchvision ----

Preset torchvision_fcos() {
  Preset preset;
  preset.name = "torchvision_fcos_resnet50_fpn";
  preset.description = "FCOS of torchvision, resnet50; labels are COCO ids";
  set_published(preset, "https://download.pytorch.org/models/fcos_resnet50_fpn_coco-99b0c9b7.pth", 39.2);

  ModelConfig& config = preset.config;
  config.num_classes = 91;
  config.class_names = coco91_class_names();
  config.input.channel_order = "rgb";
  config.input.mean = {0.485 * 255, 0.456 * 255, 0.406 * 255};
  config.input.std = {0.229 * 255, 0.224 * 255, 0.225 * 255};
  config.input.resize = "float";
  config.backbone.stride_in_1x1 = false;
  config.head.scale = false;
  config.head.location_offset = "none";
  config.targets.rule = "torchvision";
  config.loss.iou_smoothing = 0;
  config.loss.weight_by_centerness = false;
  config.post.score_threshold = 0.2;
  config.post.threshold_on = "score";
  config.post.clip_before_nms = true;
  config.post.keep_ties = false;
  return preset;
}

// ---- FCOS of mmdetection, "caffe" style ----

Preset mmdet(const std::string& name, const std::string& stem, const std::string& hash,
             const std::string& backbone, double ap, const std::string& note, bool improved = false) {
  Preset preset;
  preset.name = name;
  preset.description = "FCOS of mmdetection, " + backbone + ", " + note;
  set_published(
      preset,
      "https://download.openmmlab.com/mmdetection/v2.0/fcos/" + stem + "/" + stem + "-" + hash + ".pth", ap);
  preset.config = mmdet_config(backbone, improved);
  preset.config.input.mean = {102.9801, 115.9465, 122.7717};
  return preset;
}

// ---- Small devices: no published detector weights; start from an ImageNet EfficientNet-Lite ----

Preset lite(int size, int64_t convs, int64_t max_level, int64_t short_side, const std::string& note) {
  Preset preset;
  preset.name = "fcos_efficientnet_lite" + std::to_string(size);
  preset.description = "FCOS for small devices, EfficientNet-Lite" + std::to_string(size) + ", " + note;
  preset.config = lite_config(size, convs, max_level, short_side);
  return preset;
}

}  // namespace

ModelConfig mmdet_config(const std::string& backbone, bool improved) {
  ModelConfig config = coco_config();
  config.input.resize = "opencv";
  config.backbone.name = backbone;
  config.loss.iou_smoothing = 0;
  config.post.score = "product";
  config.post.topk_over = "locations";
  config.post.clip_before_nms = true;
  config.post.keep_ties = false;
  if (improved) return config;
  config.head.centerness_on = "cls";
  config.head.box_transform = "exp";
  config.head.stride_units = false;
  config.targets.center_radius = 0;
  config.loss.box_loss = "iou";
  config.post.nms_threshold = 0.5;
  return config;
}

ModelConfig lite_config(int size, int64_t convs, int64_t max_level, int64_t short_side) {
  ModelConfig config = coco_config();
  config.input.channel_order = "rgb";
  config.input.mean = {127, 127, 127};
  config.input.std = {128, 128, 128};
  config.input.short_side = short_side;
  config.input.long_side = short_side * 5 / 3;
  config.backbone.name = "efficientnet_lite" + std::to_string(size);
  // Small data sets and batches: statistics stay those of ImageNet, everything else is trained.
  config.backbone.norm = "bn_eval";
  config.backbone.freeze = 0;
  config.backbone.stride_in_1x1 = false;
  config.neck.channels = 128;
  config.neck.max_level = max_level;
  config.head.cls_convs = convs;
  config.head.box_convs = convs;
  config.targets.sizes_of_interest.resize(static_cast<size_t>(max_level - config.neck.min_level));
  return config;
}

std::vector<Preset> fcos_presets() {
  const std::string ms = "short sides 640..800, 2x";
  const std::string mmdet_ms = "fpn_gn-head_mstrain_640-800_2x_coco";
  return {
      fcos("R_50_1x", "resnet50", 38.7, "1x"),
      fcos("MS_R_50_2x", "resnet50", 41.0, ms),
      fcos("MS_R_101_2x", "resnet101", 43.1, ms),
      fcos_iou("R_50_1x_iou", "resnet50", 39.4, "1x"),
      fcos_iou("MS_R_50_2x_iou", "resnet50", 41.5, ms),
      fcos_iou("MS_R_101_2x_iou", "resnet101", 43.5, ms),
      fcos_rt("RT_MS_R_50_4x_syncbn", "gn", 40.2, "GroupNorm head"),
      fcos_rt("RT_MS_R_50_4x_syncbn_bn_head", "bn", 39.3, "one BatchNorm per level in the head"),
      torchvision_fcos(),
      mmdet("mmdet_fcos_r50_caffe_1x", "fcos_r50_caffe_fpn_gn-head_1x_coco", "821213aa", "resnet50", 36.6,
            "1x"),
      mmdet("mmdet_fcos_r101_caffe_1x", "fcos_r101_caffe_fpn_gn-head_1x_coco", "0e37b982", "resnet101", 39.1,
            "1x"),
      mmdet("mmdet_fcos_r50_caffe_ms_2x", "fcos_r50_caffe_" + mmdet_ms, "d92ceeea", "resnet50", 38.5, ms),
      mmdet("mmdet_fcos_r101_caffe_ms_2x", "fcos_r101_caffe_" + mmdet_ms, "511424d6", "resnet101", 40.8, ms),
      // mmdetection's rendition of the improved FCOS.
      mmdet("mmdet_fcos_improved_r50_caffe_1x",
            "fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco", "0a0d75a8", "resnet50",
            38.7, "1x, center sampling, GIoU, centerness on the box tower", true),
      lite(0, 2, 5, 320, "3 levels"),
      lite(1, 3, 6, 416, "4 levels"),
      lite(2, 4, 7, 512, "5 levels"),
  };
}

}  // namespace instseg
