// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "instseg/config.h"
#include "instseg/error.h"
#include "models/config_fields.h"

namespace instseg {
namespace {

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ValueError& error) {
    return error.what();
  }
  return "no error";
}

std::string check_error(const std::function<void(ModelConfig&)>& change) {
  ModelConfig config;
  change(config);
  return error_of([&] { config.check(); });
}

TEST(ConfigFields, NamesOfMasksFollowTheHeader) {
  EXPECT_EQ(field_names<BoxInstConfig>(),
            (std::vector<std::string>{"pairwise_size", "pairwise_dilation", "color_threshold",
                                      "warmup_iterations", "bottom_pixels_removed"}));
  EXPECT_EQ(field_names<CondInstConfig>(),
            (std::vector<std::string>{"mask_channels", "branch_channels", "branch_convs", "branch_norm",
                                      "head_depth", "head_width", "coordinates", "output_stride", "semantic",
                                      "supervision", "max_proposals", "max_proposals_per_image",
                                      "topk_per_image", "dice_eps", "boxinst"}));
  EXPECT_EQ(
      field_names<BlendMaskConfig>(),
      (std::vector<std::string>{"bottom", "bases", "branch_channels", "branch_convs", "branch_norm",
                                "attention_size", "mask_size", "semantic", "semantic_weight", "paste"}));
}

TEST(ConfigFields, NamesOfSoloFollowTheHeader) {
  EXPECT_EQ(field_names<SoloConfig>(),
            (std::vector<std::string>{"head", "grids", "min_scales", "max_scales", "center_region", "convs",
                                      "channels", "mask_channels", "branch_channels", "inclusive_boxes",
                                      "mask_frame", "mask_weight", "dice_eps", "max_candidates", "nms",
                                      "nms_kernel", "nms_sigma", "update_threshold"}));
}

TEST(ConfigCheck, MaskStructsAloneUseTheirOwnName) {
  BoxInstConfig boxinst;
  boxinst.color_threshold = 2;
  EXPECT_EQ(error_of([&] { boxinst.check(); }), "[BoxInstConfig] color_threshold: 2 is not within 0..1");
  CondInstConfig condinst;
  condinst.boxinst.color_threshold = 2;
  EXPECT_EQ(error_of([&] { condinst.check(); }),
            "[CondInstConfig] boxinst.color_threshold: 2 is not within 0..1");
}

TEST(ConfigCheck, CondInst) {
  EXPECT_EQ(check_error([](auto& c) { c.condinst.mask_channels = 33; }),
            "[ModelConfig] condinst.mask_channels: 33 is not within 0..32");
  EXPECT_EQ(check_error([](auto& c) { c.condinst.branch_channels = 0; }),
            "[ModelConfig] condinst.branch_channels: 0 is not within 1..4096");
  EXPECT_EQ(check_error([](auto& c) { c.condinst.branch_convs = -1; }),
            "[ModelConfig] condinst.branch_convs: -1 is not within 0..32");
  EXPECT_EQ(check_error([](auto& c) { c.condinst.head_depth = 0; }),
            "[ModelConfig] condinst.head_depth: 0 is not within 1..8");
  EXPECT_EQ(check_error([](auto& c) { c.condinst.head_width = 33; }),
            "[ModelConfig] condinst.head_width: 33 is not within 1..32");
  EXPECT_EQ(check_error([](auto& c) { c.condinst.output_stride = 1; }),
            "[ModelConfig] condinst.output_stride: 1 is not one of 8, 4, 2");
  EXPECT_EQ(check_error([](auto& c) { c.condinst.max_proposals = -1; }),
            "[ModelConfig] condinst.max_proposals: -1 is not within 0..1000000");
  EXPECT_EQ(check_error([](auto& c) { c.condinst.max_proposals_per_image = -1; }),
            "[ModelConfig] condinst.max_proposals_per_image: -1 is not within 0..1000000");
  EXPECT_EQ(check_error([](auto& c) { c.condinst.dice_eps = 0; }),
            "[ModelConfig] condinst.dice_eps: 0 is not a positive number");
}

TEST(ConfigCheck, CondInstFieldsThatExcludeEachOther) {
  EXPECT_EQ(check_error([](auto& c) {
              c.condinst.mask_channels = 0;
              c.condinst.coordinates = "none";
            }),
            "[ModelConfig] condinst.coordinates: 'none' needs mask_channels > 0: the mask head would have no "
            "input");
  EXPECT_EQ(check_error([](auto& c) { c.condinst.mask_channels = 0; }), "no error");
  const std::string excluded =
      "[ModelConfig] condinst.topk_per_image: 64 excludes max_proposals and max_proposals_per_image; set "
      "them to 0";
  EXPECT_EQ(check_error([](auto& c) { c.condinst.topk_per_image = 64; }), excluded);
  EXPECT_EQ(check_error([](auto& c) {
              c.condinst.topk_per_image = 64;
              c.condinst.max_proposals = 0;
              c.condinst.max_proposals_per_image = 5;
            }),
            excluded);
  EXPECT_EQ(check_error([](auto& c) {
              c.condinst.branch_norm = "gn";
              c.condinst.branch_channels = 48;
            }),
            "[ModelConfig] condinst.branch_norm: 'gn' has 32 groups, but branch_channels 48 is not a "
            "multiple of 32");
  EXPECT_EQ(check_error([](auto& c) {
              c.condinst.semantic = true;
              c.condinst.supervision = "boxes";
            }),
            "[ModelConfig] condinst.semantic: needs supervision masks: its targets are made of them");
}

TEST(ConfigCheck, BoxInst) {
  EXPECT_EQ(check_error([](auto& c) { c.condinst.boxinst.pairwise_size = 1; }),
            "[ModelConfig] condinst.boxinst.pairwise_size: 1 is not within 3..15");
  EXPECT_EQ(check_error([](auto& c) { c.condinst.boxinst.pairwise_size = 4; }),
            "[ModelConfig] condinst.boxinst.pairwise_size: 4 is not odd");
  EXPECT_EQ(check_error([](auto& c) { c.condinst.boxinst.pairwise_dilation = 0; }),
            "[ModelConfig] condinst.boxinst.pairwise_dilation: 0 is not within 1..64");
  EXPECT_EQ(check_error([](auto& c) { c.condinst.boxinst.warmup_iterations = -1; }),
            "[ModelConfig] condinst.boxinst.warmup_iterations: -1 is not within 0..1000000000");
  EXPECT_EQ(check_error([](auto& c) { c.condinst.boxinst.bottom_pixels_removed = -1; }),
            "[ModelConfig] condinst.boxinst.bottom_pixels_removed: -1 is not within 0..32768");
}

TEST(ConfigCheck, BlendMask) {
  EXPECT_EQ(check_error([](auto& c) { c.blendmask.bases = 0; }),
            "[ModelConfig] blendmask.bases: 0 is not within 1..64");
  EXPECT_EQ(check_error([](auto& c) { c.blendmask.branch_channels = 4097; }),
            "[ModelConfig] blendmask.branch_channels: 4097 is not within 1..4096");
  EXPECT_EQ(check_error([](auto& c) { c.blendmask.branch_convs = 33; }),
            "[ModelConfig] blendmask.branch_convs: 33 is not within 0..32");
  EXPECT_EQ(check_error([](auto& c) { c.blendmask.attention_size = 0; }),
            "[ModelConfig] blendmask.attention_size: 0 is not within 1..256");
  EXPECT_EQ(check_error([](auto& c) { c.blendmask.mask_size = 1; }),
            "[ModelConfig] blendmask.mask_size: 1 is not within 2..512");
  EXPECT_EQ(check_error([](auto& c) { c.blendmask.semantic_weight = -1; }),
            "[ModelConfig] blendmask.semantic_weight: -1 is not a finite number >= 0");
  EXPECT_EQ(check_error([](auto& c) {
              c.blendmask.branch_norm = "gn";
              c.blendmask.branch_channels = 48;
            }),
            "[ModelConfig] blendmask.branch_norm: 'gn' has 32 groups, but branch_channels 48 is not a "
            "multiple of 32");
  EXPECT_EQ(check_error([](auto& c) {
              c.blendmask.branch_norm = "gn";
              c.blendmask.bottom = "deeplab_pyramid";
            }),
            "[ModelConfig] blendmask.branch_norm: 'gn' has 32 groups, but the low-level map of bottom "
            "deeplab_pyramid has 48 channels; use bn or none");
}

TEST(ConfigCheck, Solo) {
  EXPECT_EQ(check_error([](auto& c) { c.solo.head = "yolact"; }),
            "[ModelConfig] solo.head: 'yolact' is not one of solo, decoupled, decoupled_light, solov2");
  EXPECT_EQ(check_error([](auto& c) { c.solo.grids = {40, 36, 24, 16}; }),
            "[ModelConfig] solo.grids: has 4 values, expected 5, one per level");
  EXPECT_EQ(check_error([](auto& c) { c.solo.min_scales.push_back(9); }),
            "[ModelConfig] solo.min_scales: has 6 values, expected 5, one per level");
  EXPECT_EQ(check_error([](auto& c) { c.solo.max_scales.clear(); }),
            "[ModelConfig] solo.max_scales: has 0 values, expected 5, one per level");
  EXPECT_EQ(check_error([](auto& c) { c.solo.grids[3] = 0; }),
            "[ModelConfig] solo.grids[3]: 0 is not within 1..512");
  EXPECT_EQ(check_error([](auto& c) { c.solo.min_scales[0] = -1; }),
            "[ModelConfig] solo.min_scales[0]: -1 is not a finite number >= 0");
  EXPECT_EQ(check_error([](auto& c) { c.solo.max_scales[1] = 47; }),
            "[ModelConfig] solo.max_scales[1]: 47 is not a finite number >= 48");
  EXPECT_EQ(check_error([](auto& c) { c.solo.center_region = 1.5; }),
            "[ModelConfig] solo.center_region: 1.5 is not within 0..1");
  EXPECT_EQ(check_error([](auto& c) { c.solo.convs = 0; }),
            "[ModelConfig] solo.convs: 0 is not within 1..32");
  EXPECT_EQ(check_error([](auto& c) { c.solo.channels = 48; }),
            "[ModelConfig] solo.channels: 48 is not a multiple of 32, the groups of its norm");
  EXPECT_EQ(check_error([](auto& c) { c.solo.mask_channels = 4128; }),
            "[ModelConfig] solo.mask_channels: 4128 is not within 1..4096");
  EXPECT_EQ(check_error([](auto& c) { c.solo.branch_channels = 16; }),
            "[ModelConfig] solo.branch_channels: 16 is not a multiple of 32, the groups of its norm");
  EXPECT_EQ(check_error([](auto& c) { c.solo.mask_frame = "canvas"; }),
            "[ModelConfig] solo.mask_frame: 'canvas' is not one of padded, image");
  EXPECT_EQ(check_error([](auto& c) { c.solo.mask_weight = -1; }),
            "[ModelConfig] solo.mask_weight: -1 is not a finite number >= 0");
  EXPECT_EQ(check_error([](auto& c) { c.solo.dice_eps = 0; }),
            "[ModelConfig] solo.dice_eps: 0 is not a positive number");
}

TEST(ConfigCheck, SoloSuppression) {
  EXPECT_EQ(check_error([](auto& c) { c.solo.max_candidates = 0; }),
            "[ModelConfig] solo.max_candidates: 0 is not within 1..1000000");
  EXPECT_EQ(check_error([](auto& c) { c.solo.nms = "points"; }),
            "[ModelConfig] solo.nms: 'points' is not one of matrix, mask");
  EXPECT_EQ(check_error([](auto& c) { c.solo.nms_kernel = "cubic"; }),
            "[ModelConfig] solo.nms_kernel: 'cubic' is not one of gaussian, linear");
  EXPECT_EQ(check_error([](auto& c) { c.solo.nms_sigma = 0; }),
            "[ModelConfig] solo.nms_sigma: 0 is not a positive number");
  EXPECT_EQ(check_error([](auto& c) { c.solo.update_threshold = 2; }),
            "[ModelConfig] solo.update_threshold: 2 is not within 0..1");
  SoloConfig alone;
  alone.update_threshold = -1;
  EXPECT_EQ(error_of([&] { alone.check(); }), "[SoloConfig] update_threshold: -1 is not within 0..1");
}

TEST(ConfigCheck, MasksNeedTheirDetector) {
  EXPECT_EQ(
      check_error([](auto& c) {
        c.family = "condinst";
        c.neck.min_level = 4;
        c.targets.sizes_of_interest = {64, 128, 256};
      }),
      "[ModelConfig] neck.min_level: 4 must be 3 for family condinst, whose masks are made of P3, P4 and "
      "P5");
  EXPECT_EQ(check_error([](auto& c) {
              c.family = "blendmask";
              c.head.location_offset = "none";
            }),
            "[ModelConfig] head.location_offset: must be half for family blendmask");
  EXPECT_EQ(check_error([](auto& c) {
              c.family = "condinst";
              c.targets.rule = "torchvision";
            }),
            "[ModelConfig] targets.rule: must be fcos for family condinst");
  EXPECT_EQ(
      check_error([](auto& c) {
        c.family = "blendmask";
        c.head.quality = "iou";
      }),
      "[ModelConfig] head.quality: must be centerness for family blendmask, whose mask loss is weighted by "
      "it");
  EXPECT_EQ(check_error([](auto& c) {
              c.family = "condinst";
              c.head.quality = "iou";
            }),
            "no error");
}

}  // namespace
}  // namespace instseg
