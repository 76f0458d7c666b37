// SPDX-License-Identifier: Apache-2.0
#include "layers/fcos_head.h"

#include <ATen/ops/randn.h>

#include <cmath>

#include "networks.h"

namespace instseg {
namespace {

std::vector<at::Tensor> features() {
  std::vector<at::Tensor> maps;
  for (int64_t i = 0; i < 3; ++i) {
    maps.push_back(at::randn({2, 32, 12 >> i, 16 >> i}).contiguous(at::MemoryFormat::ChannelsLast));
  }
  return maps;
}

struct Case {
  const char* name;
  HeadConfig config;
};

class FcosHeadVariants : public ::testing::TestWithParam<Case> {};

TEST_P(FcosHeadVariants, LoweredEqualsTheOriginal) {
  const c10::AutoGradMode no_grad(false);
  at::manual_seed(1);
  const auto owner = std::make_shared<FcosHead>(GetParam().config, 32, 5, 3);
  auto& head = *owner;
  for (auto& p : head.parameters()) {
    if (p.dim() == 4) p.normal_(0, 0.08);
  }
  testing::randomize(head);
  head.eval();
  const auto maps = features();
  const auto expected = head.forward(maps);
  head.lower(at::kFloat);
  const auto outputs = head.forward(maps);
  ASSERT_EQ(outputs.size(), 3u);
  for (size_t l = 0; l < outputs.size(); ++l) {
    EXPECT_EQ(outputs[l].logits.size(1), 5);
    EXPECT_EQ(outputs[l].reg.size(1), 4);
    EXPECT_EQ(outputs[l].centerness.size(1), 1);
    EXPECT_GE(outputs[l].reg.min().item<float>(), 0.f);
    testing::expect_near(outputs[l].logits, expected[l].logits, 2e-5);
    testing::expect_near(outputs[l].reg, expected[l].reg, 2e-5);
    testing::expect_near(outputs[l].centerness, expected[l].centerness, 2e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, FcosHeadVariants,
    ::testing::Values(Case{"towers", {.cls_convs = 2, .box_convs = 2}},
                      Case{"shared_tower", {.share_convs = 2, .cls_convs = 0, .box_convs = 0}},
                      Case{"per_level_bn", {.cls_convs = 1, .box_convs = 1, .norm = "bn"}},
                      Case{"no_scale", {.cls_convs = 1, .box_convs = 1, .scale = false}},
                      Case{"cls_centerness_exp",
                           {.cls_convs = 1, .box_convs = 1, .centerness_on = "cls", .box_transform = "exp"}},
                      Case{"no_norm", {.cls_convs = 1, .box_convs = 1, .norm = "none"}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(FcosHead, FreshClassBiasIsThePrior) {
  FcosHead head({.prior_prob = 0.01}, 32, 5, 3);
  const auto bias = head.named_parameters()["cls_logits.bias"];
  EXPECT_NEAR(bias[0].item<float>(), -std::log(99.0), 1e-5);
}

TEST(FcosHead, ScalesActPerLevel) {
  const c10::AutoGradMode no_grad(false);
  FcosHead head({.cls_convs = 0, .box_convs = 0}, 32, 5, 3);
  const auto maps = features();
  const auto before = head.forward(maps);
  head.named_parameters()["scales.1"].fill_(3);
  const auto after = head.forward(maps);
  EXPECT_TRUE(after[0].reg.equal(before[0].reg));
  testing::expect_near(after[1].reg, before[1].reg * 3, 1e-6);
}

}  // namespace
}  // namespace instseg
