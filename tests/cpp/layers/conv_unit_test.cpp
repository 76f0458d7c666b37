// SPDX-License-Identifier: Apache-2.0
#include "layers/conv_unit.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/zeros.h>

#include "instseg/error.h"
#include "networks.h"

namespace instseg {
namespace {

using testing::expect_near;

at::Tensor image(int64_t channels, int64_t height, int64_t width) {
  return at::randn({2, channels, height, width}).contiguous(at::MemoryFormat::ChannelsLast);
}

struct Case {
  const char* name;
  ConvOptions options;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class LoweredUnit : public ::testing::TestWithParam<Case> {};

TEST_P(LoweredUnit, EqualsTheTrainableUnit) {
  const c10::AutoGradMode no_grad(false);
  at::manual_seed(1);
  ConvUnit unit(GetParam().options);
  unit.weight.normal_(0, 0.2);
  testing::randomize(unit);
  unit.eval();
  const auto x = image(GetParam().options.in, 18, 22);
  const int64_t level = GetParam().options.norm_levels > 0 ? 1 : 0;
  const auto expected = unit.forward(x, {}, level);
  const auto residual = at::randn_like(expected);
  const auto expected_sum = unit.forward(x, residual, level);
  unit.lower(at::kFloat);
  expect_near(unit.forward(x, {}, level), expected, 1e-5);
  expect_near(unit.forward(x, residual.clone(), level), expected_sum, 1e-5);
}

TEST_P(LoweredUnit, IsCloseInBfloat16) {
  const c10::AutoGradMode no_grad(false);
  at::manual_seed(2);
  ConvUnit unit(GetParam().options);
  unit.weight.normal_(0, 0.2);
  testing::randomize(unit);
  unit.eval();
  const auto x = image(GetParam().options.in, 18, 22);
  const auto expected = unit.forward(x);
  unit.lower(at::kBFloat16);
  const auto y = unit.forward(x.to(at::kBFloat16));
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  expect_near(y, expected, 3e-2);
}

INSTANTIATE_TEST_SUITE_P(
    All, LoweredUnit,
    ::testing::Values(
        Case{"plain_bias", {.in = 8, .out = 16, .kernel = 3, .bias = true}},
        Case{"strided_1x1", {.in = 8, .out = 16, .kernel = 1, .stride = 2, .norm = {.kind = "frozen_bn"}}},
        Case{"stem",
             {.in = 3,
              .out = 16,
              .kernel = 7,
              .stride = 2,
              .norm = {.kind = "bn"},
              .activation = Activation::relu}},
        Case{"bn_with_bias", {.in = 8, .out = 8, .kernel = 3, .bias = true, .norm = {.kind = "bn_eval"}}},
        Case{"group_norm",
             {.in = 8,
              .out = 32,
              .kernel = 3,
              .bias = true,
              .norm = {.kind = "gn"},
              .activation = Activation::relu}},
        Case{"per_level",
             {.in = 8,
              .out = 8,
              .kernel = 3,
              .bias = true,
              .norm = {.kind = "bn"},
              .norm_levels = 3,
              .activation = Activation::relu}},
        Case{"dilated",
             {.in = 8,
              .out = 16,
              .kernel = 3,
              .dilation = 6,
              .norm = {.kind = "bn"},
              .activation = Activation::relu}},
        Case{"dilated_strided_groups",
             {.in = 8, .out = 16, .kernel = 5, .stride = 2, .groups = 2, .dilation = 3, .bias = true}},
        Case{"dilated_beyond_the_image", {.in = 8, .out = 16, .kernel = 3, .dilation = 24, .bias = true}},
        Case{"depthwise_same",
             {.in = 8,
              .out = 8,
              .kernel = 5,
              .stride = 2,
              .groups = 8,
              .same_padding = true,
              .norm = {.kind = "bn", .eps = 1e-3},
              .activation = Activation::relu6}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(ConvUnit, FrozenNormEqualsTheFormula) {
  at::manual_seed(3);
  ConvUnit unit(
      {.in = 4, .out = 6, .kernel = 3, .norm = {.kind = "frozen_bn"}, .activation = Activation::relu});
  {
    const c10::AutoGradMode no_grad(false);
    unit.weight.normal_();
    testing::randomize(unit);
  }
  const auto x = image(4, 9, 7);
  const auto buffers = unit.named_buffers();
  const auto channel = [&](const char* name) {
    return buffers[std::string("norm.") + name].view({1, -1, 1, 1});
  };
  const auto y = at::conv2d(x, unit.weight, {}, 1, 1);
  const auto expected =
      at::relu((y - channel("running_mean")) / (channel("running_var") + 1e-5).sqrt() * channel("weight") +
               channel("bias"));
  expect_near(unit.forward(x), expected, 1e-5);
  EXPECT_EQ(unit.parameters().size(), 1u);
}

TEST(ConvUnit, FrozenNormIsTheIdentityWhenFresh) {
  const Norm norm({.kind = "frozen_bn", .channels = 4});
  const auto [scale, shift] = norm.affine();
  expect_near(scale, at::ones_like(scale), 1e-7);
  EXPECT_EQ(shift.abs().max().item<float>(), 0.f);
}

TEST(ConvUnit, TrainingNormUpdatesItsStatistics) {
  at::manual_seed(4);
  ConvUnit unit({.in = 4, .out = 6, .kernel = 3, .norm = {.kind = "bn"}});
  {
    const c10::AutoGradMode no_grad(false);
    unit.weight.normal_();
  }
  const auto x = image(4, 9, 7);
  const auto y = at::conv2d(x, unit.weight, {}, 1, 1);
  const auto normalised = unit.forward(x);
  EXPECT_LT(normalised.mean().abs().item<float>(), 1e-5);
  const auto buffers = unit.named_buffers();
  expect_near(buffers["norm.running_mean"], y.mean({0, 2, 3}) * 0.1, 1e-4);
  EXPECT_EQ(buffers["norm.num_batches_tracked"].item<int64_t>(), 1);
}

TEST(ConvUnit, DilationSpreadsTheKernel) {
  const c10::AutoGradMode no_grad(false);
  at::manual_seed(7);
  ConvUnit unit({.in = 4, .out = 6, .kernel = 3, .dilation = 4, .bias = true});
  unit.weight.normal_();
  unit.bias.normal_();
  const auto x = image(4, 9, 14);
  // The same as a 9x9 kernel with zeros between the weights.
  const auto spread = at::zeros({6, 4, 9, 9});
  spread.slice(2, 0, std::nullopt, 4).slice(3, 0, std::nullopt, 4).copy_(unit.weight);
  const auto expected = at::conv2d(x, spread, unit.bias, 1, 4);
  expect_near(unit.forward(x), expected, 1e-5);
  unit.lower(at::kFloat);
  expect_near(unit.forward(x), expected, 1e-5);
}

TEST(ConvUnit, SamePaddingPutsTheSmallerHalfFirst) {
  const c10::AutoGradMode no_grad(false);
  at::manual_seed(5);
  ConvUnit unit({.in = 2, .out = 2, .kernel = 3, .stride = 2, .same_padding = true});
  unit.weight.normal_();
  const auto x = image(2, 8, 12);
  expect_near(unit.forward(x), at::conv2d(at::constant_pad_nd(x, {0, 1, 0, 1}), unit.weight, {}, 2), 1e-6);
}

TEST(ConvUnit, FixedStatisticsPassGradientsToTheAffinePart) {
  at::manual_seed(6);
  ConvUnit unit({.in = 2, .out = 3, .kernel = 1, .norm = {.kind = "bn_eval"}});
  {
    const c10::AutoGradMode no_grad(false);
    unit.weight.normal_();
  }
  unit.forward(image(2, 4, 4)).square().sum().backward();
  for (const auto& item : unit.named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    EXPECT_GT(item.value().grad().abs().max().item<float>(), 0.f) << item.key();
  }
}

TEST(ConvUnit, LoweringTwiceIsAnError) {
  ConvUnit unit({.in = 2, .out = 3, .kernel = 1});
  unit.lower(at::kFloat);
  EXPECT_THROW(unit.lower(at::kFloat), Error);
}

TEST(ConvUnit, LoweringATrainingNormIsAnError) {
  ConvUnit unit({.in = 2, .out = 3, .kernel = 1, .norm = {.kind = "bn"}});
  EXPECT_THROW(unit.lower(at::kFloat), Error);
}

TEST(Norm, GroupsMustDivideTheChannels) { EXPECT_THROW(Norm({.kind = "gn", .channels = 40}), ValueError); }

}  // namespace
}  // namespace instseg
