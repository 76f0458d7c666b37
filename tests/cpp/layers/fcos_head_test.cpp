// SPDX-License-Identifier: Apache-2.0
#include "layers/fcos_head.h"

#include <ATen/ops/batch_norm.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>

#include <cmath>
#include <string>
#include <utility>

#include "networks.h"

namespace instseg {
namespace {

constexpr int64_t kLevels = 4;

std::vector<at::Tensor> features() {
  std::vector<at::Tensor> maps;
  for (int64_t i = 0; i < kLevels; ++i) {
    maps.push_back(at::randn({2, 32, 12 >> i, 16 >> i}).contiguous(at::MemoryFormat::ChannelsLast));
  }
  return maps;
}

/** The head written with plain ATen calls. */
class Twin {
 public:
  Twin(const FcosHead& head, HeadConfig config)
      : config_(std::move(config)), values_(head.named_parameters()) {
    for (const auto& buffer : head.named_buffers()) values_.insert(buffer.key(), buffer.value());
  }

  HeadOutput operator()(const at::Tensor& x, int64_t level) const {
    const auto shared = tower("share_tower", config_.share_convs, x, level);
    const auto cls = tower("cls_tower", config_.cls_convs, shared, level);
    const auto box = tower("box_tower", config_.box_convs, shared, level);
    auto reg = conv(box, "box_pred");
    if (config_.scale) reg = reg * values_["scales." + std::to_string(level)];
    return {.logits = conv(cls, "cls_logits"),
            .reg = config_.box_transform == "exp" ? at::exp(reg) : at::relu(reg),
            .centerness = conv(config_.centerness_on == "box" ? box : cls, "centerness"),
            .box_tower = box};
  }

 private:
  at::Tensor conv(const at::Tensor& x, const std::string& name) const {
    return at::conv2d(x, values_[name + ".weight"], values_[name + ".bias"], 1, 1);
  }

  at::Tensor tower(const std::string& name, int64_t convs, at::Tensor x, int64_t level) const {
    for (int64_t i = 0; i < convs; ++i) {
      const auto unit = name + "." + std::to_string(i);
      x = conv(x, unit);
      const auto norm = unit + ".norm." + (config_.norm == "bn" ? std::to_string(level) + "." : "");
      if (config_.norm == "gn") x = at::group_norm(x, 32, values_[norm + "weight"], values_[norm + "bias"]);
      if (config_.norm == "bn") {
        x = at::batch_norm(x, values_[norm + "weight"], values_[norm + "bias"],
                           values_[norm + "running_mean"], values_[norm + "running_var"], false, 0.1, 1e-5,
                           false);
      }
      x = at::relu(x);
    }
    return x;
  }

  HeadConfig config_;
  torch::OrderedDict<std::string, at::Tensor> values_;
};

struct Case {
  const char* name;
  HeadConfig config;
};

void expect_equal(const std::vector<HeadOutput>& outputs, const std::vector<HeadOutput>& expected) {
  ASSERT_EQ(outputs.size(), expected.size());
  for (size_t l = 0; l < outputs.size(); ++l) {
    testing::expect_near(outputs[l].logits, expected[l].logits, 2e-5);
    testing::expect_near(outputs[l].reg, expected[l].reg, 2e-5);
    testing::expect_near(outputs[l].centerness, expected[l].centerness, 2e-5);
    testing::expect_near(outputs[l].box_tower, expected[l].box_tower, 2e-5);
  }
}

class FcosHeadVariants : public ::testing::TestWithParam<Case> {};

TEST_P(FcosHeadVariants, EqualsTheTwinAlsoWhenLowered) {
  const c10::AutoGradMode no_grad(false);
  at::manual_seed(1);
  const auto owner = std::make_shared<FcosHead>(GetParam().config, 32, 5, kLevels);
  auto& head = *owner;
  for (auto& p : head.parameters()) {
    if (p.dim() == 4) p.normal_(0, 0.08);
  }
  testing::randomize(head);
  head.eval();
  const auto maps = features();
  const Twin twin(head, GetParam().config);
  std::vector<HeadOutput> expected;
  for (size_t l = 0; l < maps.size(); ++l) expected.push_back(twin(maps[l], static_cast<int64_t>(l)));
  expect_equal(head.forward(maps), expected);
  head.lower(at::kFloat);
  expect_equal(head.forward(maps), expected);
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
  FcosHead head({.prior_prob = 0.01}, 32, 5, kLevels);
  const auto bias = head.named_parameters()["cls_logits.bias"];
  EXPECT_NEAR(bias[0].item<float>(), -std::log(99.0), 1e-5);
}

TEST(FcosHead, ScalesActPerLevel) {
  const c10::AutoGradMode no_grad(false);
  FcosHead head({.cls_convs = 0, .box_convs = 0}, 32, 5, kLevels);
  const auto maps = features();
  const auto before = head.forward(maps);
  head.named_parameters()["scales.1"].fill_(3);
  const auto after = head.forward(maps);
  EXPECT_TRUE(after[0].reg.equal(before[0].reg));
  testing::expect_near(after[1].reg, before[1].reg * 3, 1e-6);
}

}  // namespace
}  // namespace instseg
