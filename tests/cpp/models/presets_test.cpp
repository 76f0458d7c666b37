// SPDX-License-Identifier: Apache-2.0
#include "instseg/presets.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <utility>

#include "instseg/error.h"
#include "models/coco_classes.h"

namespace instseg {
namespace {

std::string find_error(const std::string& name) {
  try {
    find_preset(name);
  } catch (const ValueError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Presets, AreValidAndUnique) {
  std::set<std::string> names;
  for (const Preset& preset : presets()) {
    EXPECT_TRUE(names.insert(preset.name).second) << preset.name;
    EXPECT_NO_THROW(preset.config.check()) << preset.name;
    EXPECT_FALSE(preset.description.empty()) << preset.name;
    EXPECT_EQ(&find_preset(preset.name), &preset);
    EXPECT_EQ(ModelConfig::from_json(preset.config.to_json()), preset.config) << preset.name;
  }
}

TEST(Presets, PublishedOnesAreComplete) {
  for (const Preset& preset : presets()) {
    const bool published = !preset.weights_file.empty();
    EXPECT_EQ(preset.weights_url.empty(), !published) << preset.name;
    // SOLO finds masks and no boxes, FCOS boxes alone.
    EXPECT_EQ(preset.box_ap > 0, published && preset.config.family != "solo") << preset.name;
    EXPECT_EQ(preset.mask_ap > 0, published && preset.config.family != "fcos") << preset.name;
    if (preset.config.family != "solo") {
      EXPECT_LE(preset.mask_ap, preset.box_ap) << preset.name;
    }
    // The file is the last part of its address.
    EXPECT_TRUE(preset.weights_url.ends_with(preset.weights_file)) << preset.name;
  }
}

TEST(Presets, PublishedNumbers) {
  EXPECT_EQ(find_preset("fcos_R_50_1x").box_ap, 38.7);
  EXPECT_EQ(find_preset("fcos_MS_R_50_2x").box_ap, 41.0);
  EXPECT_EQ(find_preset("fcos_MS_R_101_2x").box_ap, 43.1);
  EXPECT_EQ(find_preset("fcos_R_50_1x_iou").box_ap, 39.4);
  EXPECT_EQ(find_preset("fcos_MS_R_50_2x_iou").box_ap, 41.5);
  EXPECT_EQ(find_preset("fcos_MS_R_101_2x_iou").box_ap, 43.5);
  EXPECT_EQ(find_preset("fcos_RT_MS_R_50_4x_syncbn").box_ap, 40.2);
  EXPECT_EQ(find_preset("fcos_RT_MS_R_50_4x_syncbn_bn_head").box_ap, 39.3);
}

TEST(Presets, PublishedNumbersOfMasks) {
  const std::map<std::string, std::pair<double, double>> published = {
      {"blendmask_R_50_1x", {39.9, 35.8}},
      {"blendmask_R_50_3x", {42.7, 37.8}},
      {"blendmask_R_101_3x", {44.8, 39.5}},
      {"blendmask_550_R_50_1x", {0, 0}},
      {"blendmask_550_R_50_3x", {38.7, 34.5}},
      {"blendmask_RT_R_50_4x_syncbn_shtw", {39.3, 35.1}},
      {"blendmask_RT_R_50_4x_bn_head_syncbn_shtw", {39.3, 35.1}},
      {"blendmask_Person_R_50_1x", {0, 0}},
      {"condinst_MS_R_50_1x", {39.7, 35.7}},
      {"condinst_MS_R_50_3x", {41.9, 37.5}},
      {"condinst_MS_R_50_3x_sem", {42.6, 38.2}},
      {"condinst_MS_R_101_1x", {0, 0}},
      {"condinst_MS_R_101_3x", {43.3, 38.6}},
      {"condinst_MS_R_101_3x_sem", {44.6, 39.8}},
      {"boxinst_MS_R_50_1x", {39.4, 30.7}},
      {"boxinst_MS_R_50_3x", {41.5, 31.8}},
      {"boxinst_MS_R_101_1x", {41.4, 32.2}},
      {"boxinst_MS_R_101_3x", {43.3, 33.0}},
      {"mmdet_condinst_r50_1x", {39.8, 36.0}},
  };
  for (const auto& [name, ap] : published) {
    EXPECT_EQ(find_preset(name).box_ap, ap.first) << name;
    EXPECT_EQ(find_preset(name).mask_ap, ap.second) << name;
  }
}

TEST(Presets, FileNamesOfTheAuthors) {
  EXPECT_EQ(find_preset("fcos_R_50_1x").weights_file, "FCOS_R_50_1x.pth");
  EXPECT_EQ(find_preset("fcos_RT_MS_R_50_4x_syncbn_bn_head").weights_file,
            "FCOS_RT_MS_R_50_4x_syncbn_bn_head.pth");
  EXPECT_EQ(find_preset("mmdet_fcos_improved_r50_caffe_1x").weights_file,
            "fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco-0a0d75a8.pth");
  EXPECT_EQ(find_preset("fcos_R_50_1x").weights_url,
            "https://huggingface.co/tianzhi/AdelaiDet-FCOS/resolve/main/FCOS_R_50_1x.pth");
  EXPECT_EQ(find_preset("blendmask_RT_R_50_4x_bn_head_syncbn_shtw").weights_url,
            "https://huggingface.co/ZjuCv/AdelaiDet/resolve/main/RT_R_50_4x_bn-head_syncbn_shtw.pth");
  EXPECT_EQ(find_preset("condinst_MS_R_50_3x_sem").weights_url,
            "https://huggingface.co/tianzhi/AdelaiDet-CondInst/resolve/main/CondInst_MS_R_50_3x_sem.pth");
  EXPECT_EQ(find_preset("boxinst_MS_R_101_1x").weights_url,
            "https://huggingface.co/tianzhi/AdelaiDet-BoxInst/resolve/main/BoxInst_MS_R_101_1x.pth");
  EXPECT_EQ(find_preset("mmdet_condinst_r50_1x").weights_file,
            "condinst_r50_fpn_ms-poly-90k_coco_instance_20221129_125223-4c186406.pth");
}

TEST(Presets, FirstOneIsTheDefaultConfigOnCoco) {
  ModelConfig config;
  config.class_names = coco_class_names();
  config.category_ids = coco_category_ids();
  EXPECT_EQ(find_preset("fcos_R_50_1x").config, config);
}

TEST(Presets, RealTime) {
  const ModelConfig& config = find_preset("fcos_RT_MS_R_50_4x_syncbn").config;
  EXPECT_EQ(config.backbone.norm, "bn");
  EXPECT_EQ(config.backbone.freeze, 2);
  EXPECT_EQ(config.neck.max_level, 5);
  EXPECT_EQ(config.targets.sizes_of_interest, (std::vector<int64_t>{64, 128}));
  EXPECT_EQ(config.input.short_side, 512);
  EXPECT_EQ(config.input.long_side, 736);
  EXPECT_EQ(config.head.norm, "gn");
  EXPECT_EQ(find_preset("fcos_RT_MS_R_50_4x_syncbn_bn_head").config.head.norm, "bn");
}

TEST(Presets, IouQuality) {
  const ModelConfig& config = find_preset("fcos_R_50_1x_iou").config;
  EXPECT_EQ(config.head.quality, "iou");
  EXPECT_FALSE(config.loss.weight_by_centerness);
}

TEST(Presets, Torchvision) {
  const ModelConfig& config = find_preset("torchvision_fcos_resnet50_fpn").config;
  EXPECT_EQ(config.num_classes, 91);
  ASSERT_EQ(config.class_names.size(), 91u);
  EXPECT_EQ(config.class_names[1], "person");
  EXPECT_EQ(config.class_names[12], "N/A");
  EXPECT_EQ(config.class_names[90], "toothbrush");
  EXPECT_TRUE(config.category_ids.empty());
  EXPECT_EQ(config.input.channel_order, "rgb");
  EXPECT_DOUBLE_EQ(config.input.mean[0], 123.675);
  EXPECT_DOUBLE_EQ(config.input.std[2], 57.375);
  EXPECT_FALSE(config.head.scale);
  EXPECT_FALSE(config.backbone.stride_in_1x1);
  EXPECT_EQ(config.post.score_threshold, 0.2);
}

TEST(Presets, Mmdetection) {
  const ModelConfig& base = find_preset("mmdet_fcos_r50_caffe_1x").config;
  EXPECT_EQ(base.head.centerness_on, "cls");
  EXPECT_EQ(base.head.box_transform, "exp");
  EXPECT_FALSE(base.head.stride_units);
  EXPECT_EQ(base.loss.box_loss, "iou");
  EXPECT_EQ(base.post.nms_threshold, 0.5);
  EXPECT_EQ(base.post.topk_over, "locations");
  EXPECT_EQ(base.post.score, "product");
  const ModelConfig& improved = find_preset("mmdet_fcos_improved_r50_caffe_1x").config;
  EXPECT_EQ(improved.head.centerness_on, "box");
  EXPECT_EQ(improved.head.box_transform, "relu");
  EXPECT_EQ(improved.post.nms_threshold, 0.6);
  EXPECT_EQ(improved.post.score, "product");
}

TEST(Presets, BlendMask) {
  // The first differs from FCOS in what the family needs, and in nothing else.
  ModelConfig expected = find_preset("fcos_R_50_1x").config;
  expected.family = "blendmask";
  expected.head.scale = false;
  expected.post.threshold_on = "product";
  EXPECT_EQ(find_preset("blendmask_R_50_1x").config, expected);
  EXPECT_EQ(find_preset("blendmask_R_50_3x").config, expected);
  expected.backbone.name = "resnet101";
  EXPECT_EQ(find_preset("blendmask_R_101_3x").config, expected);

  const ModelConfig& person = find_preset("blendmask_Person_R_50_1x").config;
  EXPECT_EQ(person.num_classes, 1);
  EXPECT_EQ(person.class_names, std::vector<std::string>{"person"});
  EXPECT_EQ(person.backbone.name, "resnet50");
}

TEST(Presets, FastBlendMask) {
  const ModelConfig& small = find_preset("blendmask_550_R_50_3x").config;
  EXPECT_EQ(small, find_preset("blendmask_550_R_50_1x").config);
  EXPECT_EQ(small.input.short_side, 550);
  EXPECT_EQ(small.input.long_side, 916);
  EXPECT_EQ(small.backbone.norm, "frozen_bn");
  EXPECT_EQ(small.neck.max_level, 6);
  EXPECT_EQ(small.targets.sizes_of_interest, (std::vector<int64_t>{64, 128, 256}));
  const ModelConfig& fast = find_preset("blendmask_RT_R_50_4x_syncbn_shtw").config;
  EXPECT_EQ(fast.input.short_side, 512);
  EXPECT_EQ(fast.input.long_side, 736);
  EXPECT_EQ(fast.backbone.norm, "bn");
  EXPECT_EQ(fast.backbone.freeze, 0);
  EXPECT_EQ(fast.neck.max_level, 5);
  EXPECT_EQ(fast.targets.sizes_of_interest, (std::vector<int64_t>{64, 128}));
  for (const ModelConfig* config : {&small, &fast}) {
    EXPECT_EQ(config->head.share_convs, 3);
    EXPECT_EQ(config->head.cls_convs, 0);
    EXPECT_EQ(config->head.box_convs, 0);
    EXPECT_EQ(config->head.norm, "gn");
    EXPECT_FALSE(config->head.scale);
    EXPECT_EQ(config->blendmask.branch_convs, 2);
    EXPECT_EQ(config->post.threshold_on, "product");
  }
  ModelConfig bn_head = fast;
  bn_head.head.norm = "bn";
  EXPECT_EQ(find_preset("blendmask_RT_R_50_4x_bn_head_syncbn_shtw").config, bn_head);
}

TEST(Presets, CondInst) {
  ModelConfig expected = find_preset("fcos_R_50_1x").config;
  expected.family = "condinst";
  expected.post.threshold_on = "product";
  EXPECT_EQ(find_preset("condinst_MS_R_50_1x").config, expected);
  EXPECT_EQ(find_preset("condinst_MS_R_50_3x").config, expected);
  ModelConfig semantic = expected;
  semantic.condinst.semantic = true;
  EXPECT_EQ(find_preset("condinst_MS_R_50_3x_sem").config, semantic);
  semantic.backbone.name = "resnet101";
  EXPECT_EQ(find_preset("condinst_MS_R_101_3x_sem").config, semantic);

  ModelConfig boxes = expected;
  boxes.condinst.mask_channels = 16;
  boxes.condinst.supervision = "boxes";
  boxes.condinst.max_proposals = 0;
  boxes.condinst.topk_per_image = 64;
  EXPECT_EQ(find_preset("boxinst_MS_R_50_1x").config, boxes);
  EXPECT_EQ(find_preset("boxinst_MS_R_50_3x").config, boxes);
  boxes.backbone.name = "resnet101";
  EXPECT_EQ(find_preset("boxinst_MS_R_101_3x").config, boxes);
}

TEST(Presets, CondInstOfMmdetection) {
  const ModelConfig& config = find_preset("mmdet_condinst_r50_1x").config;
  EXPECT_EQ(config.family, "condinst");
  EXPECT_EQ(config.input.channel_order, "rgb");
  EXPECT_EQ(config.input.std, (std::vector<double>{58.395, 57.12, 57.375}));
  EXPECT_EQ(config.input.resize, "opencv");
  EXPECT_FALSE(config.backbone.stride_in_1x1);
  EXPECT_EQ(config.post.score, "product");
  EXPECT_EQ(config.post.threshold_on, "class");
  EXPECT_EQ(config.post.topk_over, "locations");
  EXPECT_TRUE(config.post.clip_before_nms);
  EXPECT_EQ(config.head.centerness_on, "box");
  EXPECT_EQ(config.condinst.max_proposals, 0);
  EXPECT_EQ(config.condinst.max_proposals_per_image, 300);
  EXPECT_EQ(config.condinst.dice_eps, 5e-6);
}

TEST(Presets, MasksForSmallDevices) {
  for (const std::string family : {"condinst", "blendmask"}) {
    for (const std::string size : {"0", "1", "2"}) {
      const ModelConfig& config = find_preset(join(family, "_lite", size)).config;
      const ModelConfig& detector = find_preset("fcos_efficientnet_lite" + size).config;
      EXPECT_EQ(config.family, family);
      EXPECT_EQ(config.input, detector.input);
      EXPECT_EQ(config.backbone, detector.backbone);
      EXPECT_EQ(config.neck, detector.neck);
      EXPECT_EQ(config.post.threshold_on, "product");
      EXPECT_EQ(config.head.scale, family == "condinst");
    }
  }
}

TEST(Presets, SmallDevices) {
  for (const char* name : {"fcos_efficientnet_lite0", "fcos_efficientnet_lite1", "fcos_efficientnet_lite2"}) {
    const ModelConfig& config = find_preset(name).config;
    EXPECT_EQ("fcos_" + config.backbone.name, name);
    EXPECT_EQ(config.neck.channels, 128);
    EXPECT_EQ(config.input.mean, (std::vector<double>{127, 127, 127}));
    EXPECT_EQ(config.input.std, (std::vector<double>{128, 128, 128}));
  }
}

TEST(FindPreset, ListsCloseNames) {
  EXPECT_EQ(find_error("fcos_R50_1x"),
            "[find_preset] no preset 'fcos_R50_1x'; did you mean fcos_R_50_1x, "
            "fcos_MS_R_50_2x, fcos_R_50_1x_iou?");
  EXPECT_EQ(
      find_error("FCOS_R_50_1X").find("[find_preset] no preset 'FCOS_R_50_1X'; did you mean fcos_R_50_1x"),
      0u);
}

TEST(FindPreset, ListsAllWhenNoneIsClose) {
  const std::string text = find_error("yolo");
  EXPECT_EQ(text.find("[find_preset] no preset 'yolo'; the presets are fcos_R_50_1x, "), 0u) << text;
  EXPECT_NE(text.find("fcos_efficientnet_lite2"), std::string::npos);
}

TEST(CocoClasses, IdsAndNames) {
  EXPECT_EQ(coco_class_names().size(), 80u);
  EXPECT_EQ(coco_category_ids().size(), 80u);
  // Anchors on both sides of each gap of the numbering.
  const auto name_of = [](int64_t id) { return coco91_class_names().at(static_cast<size_t>(id)); };
  EXPECT_EQ(name_of(11), "fire hydrant");
  EXPECT_EQ(name_of(13), "stop sign");
  EXPECT_EQ(name_of(25), "giraffe");
  EXPECT_EQ(name_of(27), "backpack");
  EXPECT_EQ(name_of(31), "handbag");
  EXPECT_EQ(name_of(44), "bottle");
  EXPECT_EQ(name_of(46), "wine glass");
  EXPECT_EQ(name_of(65), "bed");
  EXPECT_EQ(name_of(67), "dining table");
  EXPECT_EQ(name_of(70), "toilet");
  EXPECT_EQ(name_of(72), "tv");
  EXPECT_EQ(name_of(82), "refrigerator");
  EXPECT_EQ(name_of(84), "book");
  EXPECT_EQ(name_of(90), "toothbrush");
  for (int64_t id : {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}) EXPECT_EQ(name_of(id), "N/A") << id;
}

}  // namespace
}  // namespace instseg
