// SPDX-License-Identifier: Apache-2.0
// Presets of SOLO, Decoupled SOLO and SOLOv2.
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "instseg/error.h"
#include "instseg/presets.h"

namespace instseg {
namespace {

using Scales = std::vector<double>;

struct Published {
  double mask_ap;
  std::string backbone;
  std::string url;
};

const std::string kSolo = "https://huggingface.co/xinlongwang/SOLO/resolve/main/";
const std::string kAdet = "https://huggingface.co/ZjuCv/AdelaiDet/resolve/main/";
const std::string kMmdet = "https://download.openmmlab.com/mmdetection/v2.0/";

const std::map<std::string, Published>& published() {
  static const std::map<std::string, Published> rows = {
      {"solo_R50_1x", {32.9, "resnet50", kSolo + "SOLO_R50_1x.pth"}},
      {"solo_R50_3x", {35.8, "resnet50", kSolo + "SOLO_R50_3x.pth"}},
      {"solo_R101_3x", {37.1, "resnet101", kSolo + "SOLO_R101_3x.pth"}},
      {"decoupled_solo_R50_1x", {33.9, "resnet50", kSolo + "DECOUPLED_SOLO_R50_1x.pth"}},
      {"decoupled_solo_R50_3x", {36.4, "resnet50", kSolo + "DECOUPLED_SOLO_R50_3x.pth"}},
      {"decoupled_solo_R101_3x", {37.9, "resnet101", kSolo + "DECOUPLED_SOLO_R101_3x.pth"}},
      {"decoupled_solo_light_R50_3x", {33.0, "resnet50", kSolo + "DECOUPLED_SOLO_LIGHT_R50_3x.pth"}},
      {"solov2_R50_1x", {34.8, "resnet50", kSolo + "SOLOv2_R50_1x.pth"}},
      {"solov2_R50_3x", {37.5, "resnet50", kSolo + "SOLOv2_R50_3x.pth"}},
      {"solov2_R101_3x", {39.1, "resnet101", kSolo + "SOLOv2_R101_3x.pth"}},
      {"solov2_light_448_R18_3x", {29.6, "resnet18", kSolo + "SOLOv2_LIGHT_448_R18_3x.pth"}},
      {"solov2_light_448_R34_3x", {32.0, "resnet34", kSolo + "SOLOv2_LIGHT_448_R34_3x.pth"}},
      {"solov2_light_448_R50_3x", {33.7, "resnet50", kSolo + "SOLOv2_LIGHT_448_R50_3x.pth"}},
      {"adet_solov2_R50_3x", {37.6, "resnet50", kAdet + "SOLOv2_R50_3x.pth"}},
      {"adet_solov2_R101_3x", {39.0, "resnet101", kAdet + "SOLOv2_R101_3x.pth"}},
      {"mmdet_solo_r50_1x",
       {33.1, "resnet50",
        kMmdet + "solo/solo_r50_fpn_1x_coco/solo_r50_fpn_1x_coco_20210821_035055-2290a6b8.pth"}},
      {"mmdet_solo_r50_3x",
       {35.9, "resnet50",
        kMmdet + "solo/solo_r50_fpn_3x_coco/solo_r50_fpn_3x_coco_20210901_012353-11d224d7.pth"}},
      {"mmdet_decoupled_solo_r50_1x",
       {33.9, "resnet50",
        kMmdet + "solo/decoupled_solo_r50_fpn_1x_coco/"
                 "decoupled_solo_r50_fpn_1x_coco_20210820_233348-6337c589.pth"}},
      {"mmdet_decoupled_solo_r50_3x",
       {36.7, "resnet50",
        kMmdet + "solo/decoupled_solo_r50_fpn_3x_coco/"
                 "decoupled_solo_r50_fpn_3x_coco_20210821_042504-7b3301ec.pth"}},
      {"mmdet_decoupled_solo_light_r50_3x",
       {32.9, "resnet50",
        kMmdet + "solo/decoupled_solo_light_r50_fpn_3x_coco/"
                 "decoupled_solo_light_r50_fpn_3x_coco_20210906_142703-e70e226f.pth"}},
      {"mmdet_solov2_r50_1x",
       {34.8, "resnet50",
        kMmdet + "solov2/solov2_r50_fpn_1x_coco/solov2_r50_fpn_1x_coco_20220512_125858-a357fa23.pth"}},
      {"mmdet_solov2_r50_3x",
       {37.5, "resnet50",
        kMmdet + "solov2/solov2_r50_fpn_3x_coco/solov2_r50_fpn_3x_coco_20220512_125856-fed092d4.pth"}},
      {"mmdet_solov2_light_r18_3x",
       {29.7, "resnet18",
        kMmdet + "solov2/solov2_light_r18_fpn_3x_coco/"
                 "solov2_light_r18_fpn_3x_coco_20220511_083717-75fa355b.pth"}},
      {"mmdet_solov2_light_r50_3x",
       {33.7, "resnet50",
        kMmdet + "solov2/solov2_light_r50_fpn_3x_coco/"
                 "solov2_light_r50_fpn_3x_coco_20220512_165256-c93a6074.pth"}},
  };
  return rows;
}

TEST(SoloPresets, PublishedRows) {
  size_t found = 0;
  for (const Preset& preset : presets()) {
    if (preset.config.family != "solo" || preset.weights_url.empty()) continue;
    ++found;
    ASSERT_TRUE(published().contains(preset.name)) << preset.name;
    const Published& row = published().at(preset.name);
    EXPECT_EQ(preset.mask_ap, row.mask_ap) << preset.name;
    EXPECT_EQ(preset.box_ap, 0) << preset.name;
    EXPECT_EQ(preset.weights_url, row.url);
    EXPECT_EQ(preset.config.backbone.name, row.backbone) << preset.name;
    EXPECT_NE(preset.description.find(row.backbone), std::string::npos) << preset.name;
  }
  EXPECT_EQ(found, published().size());
}

// What the authors' models share: torchvision backbones, OpenCV resize, boxes with inclusive ends.
TEST(SoloPresets, Authors) {
  ModelConfig expected = find_preset("mmdet_condinst_r50_1x").config;
  const ModelConfig& config = find_preset("solo_R50_1x").config;
  EXPECT_EQ(config.input, expected.input);
  EXPECT_EQ(config.backbone, expected.backbone);
  EXPECT_EQ(config.backbone.norm, "bn_eval");
  EXPECT_EQ(config.backbone.freeze, 2);
  EXPECT_EQ(config.class_names, expected.class_names);
  EXPECT_EQ(config.category_ids, expected.category_ids);
  EXPECT_EQ(config.neck, (NeckConfig{.min_level = 2, .max_level = 6, .extra = "pool"}));
  EXPECT_EQ(config.head.prior_prob, 0.01);
  EXPECT_EQ(config.loss.focal_alpha, 0.25);
  EXPECT_EQ(config.loss.focal_gamma, 2.0);
  EXPECT_EQ(config.post.score_threshold, 0.1);
  EXPECT_EQ(config.post.nms_threshold, 0.5);
  EXPECT_EQ(config.post.max_detections, 100);
  // Everything else of the plain head is the default.
  SoloConfig solo;
  solo.inclusive_boxes = true;
  EXPECT_EQ(config.solo, solo);
  EXPECT_EQ(config.solo.convs, 7);
  EXPECT_EQ(config.solo.channels, 256);
  EXPECT_EQ(config.solo.grids, (std::vector<int64_t>{40, 36, 24, 16, 12}));
  EXPECT_EQ(config.solo.min_scales, (Scales{1, 48, 96, 192, 384}));
  EXPECT_EQ(config.solo.max_scales, (Scales{96, 192, 384, 768, 2048}));
}

TEST(SoloPresets, Heads) {
  ModelConfig expected = find_preset("solo_R50_1x").config;
  EXPECT_EQ(find_preset("solo_R50_3x").config, expected);
  expected.solo.head = "decoupled";
  EXPECT_EQ(find_preset("decoupled_solo_R50_1x").config, expected);
  EXPECT_EQ(find_preset("decoupled_solo_R50_3x").config, expected);
  expected.backbone.name = "resnet101";
  EXPECT_EQ(find_preset("decoupled_solo_R101_3x").config, expected);

  expected.solo.head = "solov2";
  expected.solo.convs = 4;
  expected.solo.channels = 512;
  expected.solo.mask_channels = 256;
  EXPECT_EQ(find_preset("solov2_R101_3x").config, expected);
  expected.backbone.name = "resnet50";
  EXPECT_EQ(find_preset("solov2_R50_1x").config, expected);
  EXPECT_EQ(find_preset("solov2_R50_3x").config, expected);
}

TEST(SoloPresets, LightModels) {
  ModelConfig expected = find_preset("solo_R50_1x").config;
  expected.input.short_side = 512;
  expected.input.long_side = 852;
  expected.solo.head = "decoupled_light";
  expected.solo.convs = 4;
  expected.solo.min_scales = {1, 32, 64, 128, 256};
  expected.solo.max_scales = {64, 128, 256, 512, 2048};
  EXPECT_EQ(find_preset("decoupled_solo_light_R50_3x").config, expected);

  expected.input.short_side = 448;
  expected.input.long_side = 768;
  expected.solo.head = "solov2";
  expected.solo.convs = 2;
  expected.solo.mask_channels = 128;
  expected.solo.min_scales = {1, 28, 56, 112, 224};
  expected.solo.max_scales = {56, 112, 224, 448, 896};
  EXPECT_EQ(expected.solo.channels, 256);
  EXPECT_EQ(expected.solo.branch_channels, 128);
  for (const std::string depth : {"18", "34", "50"}) {
    expected.backbone.name = "resnet" + depth;
    EXPECT_EQ(find_preset("solov2_light_448_R" + depth + "_3x").config, expected);
  }
}

TEST(SoloPresets, MmdetectionHasContinuousBoxes) {
  const std::map<std::string, std::string> twins = {
      {"mmdet_solo_r50_1x", "solo_R50_1x"},
      {"mmdet_solo_r50_3x", "solo_R50_3x"},
      {"mmdet_decoupled_solo_r50_1x", "decoupled_solo_R50_1x"},
      {"mmdet_decoupled_solo_r50_3x", "decoupled_solo_R50_3x"},
      {"mmdet_decoupled_solo_light_r50_3x", "decoupled_solo_light_R50_3x"},
      {"mmdet_solov2_r50_1x", "solov2_R50_1x"},
      {"mmdet_solov2_r50_3x", "solov2_R50_3x"},
      {"mmdet_solov2_light_r18_3x", "solov2_light_448_R18_3x"},
      {"mmdet_solov2_light_r50_3x", "solov2_light_448_R50_3x"},
  };
  for (const auto& [name, twin] : twins) {
    ModelConfig expected = find_preset(twin).config;
    EXPECT_TRUE(expected.solo.inclusive_boxes);
    expected.solo.inclusive_boxes = false;
    EXPECT_EQ(find_preset(name).config, expected) << name;
  }
}

TEST(SoloPresets, OnDetectron2) {
  const ModelConfig& fcos = find_preset("fcos_R_50_1x").config;
  ModelConfig expected = find_preset("mmdet_solov2_r50_3x").config;
  expected.input = fcos.input;
  expected.backbone = fcos.backbone;
  expected.solo.mask_frame = "image";
  EXPECT_EQ(find_preset("adet_solov2_R50_3x").config, expected);
  EXPECT_EQ(expected.input.channel_order, "bgr");
  EXPECT_EQ(expected.input.resize, "pillow");
  EXPECT_EQ(expected.backbone.norm, "frozen_bn");
  EXPECT_TRUE(expected.backbone.stride_in_1x1);
  expected.backbone.name = "resnet101";
  EXPECT_EQ(find_preset("adet_solov2_R101_3x").config, expected);
}

TEST(SoloPresets, SmallDevices) {
  for (const std::string size : {"0", "1", "2"}) {
    const ModelConfig& detector = find_preset("fcos_efficientnet_lite" + size).config;
    const double side = static_cast<double>(detector.input.short_side);
    for (const std::string name : {"decoupled_solo_light_lite", "solov2_lite"}) {
      const ModelConfig& config = find_preset(join(name, size)).config;
      EXPECT_EQ(config.family, "solo");
      EXPECT_EQ(config.solo.head, name == "solov2_lite" ? "solov2" : "decoupled_light");
      EXPECT_EQ(config.input, detector.input);
      EXPECT_EQ(config.backbone, detector.backbone);
      EXPECT_EQ(config.neck.channels, detector.neck.channels);
      EXPECT_EQ(config.solo.convs, detector.head.cls_convs);
      EXPECT_EQ(config.solo.channels, 128);
      EXPECT_EQ(config.solo.min_scales, (Scales{1, side / 16, side / 8, side / 4, side / 2}));
      EXPECT_EQ(config.solo.max_scales, (Scales{side / 8, side / 4, side / 2, side, 2048}));
      EXPECT_EQ(config.post.score_threshold, 0.1);
      EXPECT_FALSE(config.solo.inclusive_boxes);
    }
    EXPECT_EQ(find_preset("solov2_lite" + size).config.solo.branch_channels,
              find_preset("condinst_lite" + size).config.condinst.branch_channels);
  }
}

}  // namespace
}  // namespace instseg
