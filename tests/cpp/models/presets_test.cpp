// SPDX-License-Identifier: Apache-2.0
#include "instseg/presets.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

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
    EXPECT_EQ(preset.box_ap > 0, !preset.weights_file.empty()) << preset.name;
    EXPECT_EQ(preset.weights_url.empty(), preset.weights_file.empty()) << preset.name;
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

TEST(Presets, FileNamesOfTheAuthors) {
  EXPECT_EQ(find_preset("fcos_R_50_1x").weights_file, "FCOS_R_50_1x.pth");
  EXPECT_EQ(find_preset("fcos_RT_MS_R_50_4x_syncbn_bn_head").weights_file,
            "FCOS_RT_MS_R_50_4x_syncbn_bn_head.pth");
  EXPECT_EQ(find_preset("mmdet_fcos_improved_r50_caffe_1x").weights_file,
            "fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco-0a0d75a8.pth");
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
