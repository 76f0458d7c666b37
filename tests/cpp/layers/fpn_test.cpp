// SPDX-License-Identifier: Apache-2.0
#include "layers/fpn.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/upsample_nearest2d.h>

#include "networks.h"

namespace instseg {
namespace {

const std::vector<int64_t> kChannels = {8, 12, 16, 20};

std::vector<at::Tensor> taps() {
  std::vector<at::Tensor> maps;
  for (int64_t i = 0; i < 4; ++i) maps.push_back(at::randn({1, kChannels[i], 48 >> i, 64 >> i}));
  return maps;
}

TEST(Fpn, EqualsTheFormula) {
  const c10::AutoGradMode no_grad(false);
  at::manual_seed(1);
  const auto owner = std::make_shared<Fpn>(NeckConfig{.channels = 6}, kChannels);
  auto& fpn = *owner;
  testing::randomize(fpn);
  const auto parameters = fpn.named_parameters();
  const auto conv = [&](const at::Tensor& x, const std::string& name, int64_t stride = 1) {
    const auto w = parameters[name + ".weight"];
    return at::conv2d(x, w, parameters[name + ".bias"], stride, w.size(2) / 2);
  };
  const auto up = [](const at::Tensor& x) {
    return at::upsample_nearest2d(x, std::vector<int64_t>{x.size(2) * 2, x.size(3) * 2});
  };
  const auto c = taps();
  const auto t5 = conv(c[3], "lateral5"), t4 = conv(c[2], "lateral4") + up(t5),
             t3 = conv(c[1], "lateral3") + up(t4);
  const auto p5 = conv(t5, "output5"), p6 = conv(p5, "p6", 2), p7 = conv(at::relu(p6), "p7", 2);
  const std::vector<at::Tensor> expected = {conv(t3, "output3"), conv(t4, "output4"), p5, p6, p7};
  const auto levels = fpn.forward(c);
  ASSERT_EQ(levels.size(), expected.size());
  for (size_t i = 0; i < levels.size(); ++i) testing::expect_near(levels[i], expected[i], 1e-5);
}

struct Case {
  const char* name;
  NeckConfig config;
  std::vector<int64_t> heights;
};

class FpnVariants : public ::testing::TestWithParam<Case> {};

TEST_P(FpnVariants, LevelsHaveTheirSizes) {
  const c10::AutoGradMode no_grad(false);
  const auto owner = std::make_shared<Fpn>(GetParam().config, kChannels);
  auto& fpn = *owner;
  fpn.eval();
  const auto levels = fpn.forward(taps());
  std::vector<int64_t> heights;
  for (const auto& level : levels) {
    EXPECT_EQ(level.size(1), GetParam().config.channels);
    heights.push_back(level.size(2));
  }
  EXPECT_EQ(heights, GetParam().heights);
}

INSTANTIATE_TEST_SUITE_P(
    All, FpnVariants,
    ::testing::Values(Case{"p3_to_p7", {.channels = 4}, {24, 12, 6, 3, 2}},
                      Case{"p3_to_p6", {.channels = 4, .max_level = 6}, {24, 12, 6, 3}},
                      Case{"p3_to_p5", {.channels = 4, .max_level = 5}, {24, 12, 6}},
                      Case{"p2_to_p6_pool",
                           {.channels = 4, .min_level = 2, .max_level = 6, .extra = "pool"},
                           {48, 24, 12, 6, 3}},
                      Case{"batch_norm", {.channels = 4, .norm = "bn"}, {24, 12, 6, 3, 2}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Fpn, NormReplacesTheBiasExceptOnDerivedLevels) {
  const c10::AutoGradMode no_grad(false);
  at::manual_seed(3);
  const auto owner =
      std::make_shared<Fpn>(NeckConfig{.channels = 6, .max_level = 6, .norm = "bn"}, kChannels);
  auto& fpn = *owner;
  testing::randomize(fpn);
  fpn.eval();
  auto values = fpn.named_parameters();
  for (const auto& buffer : fpn.named_buffers()) values.insert(buffer.key(), buffer.value());
  EXPECT_FALSE(values.contains("lateral5.bias"));
  EXPECT_TRUE(values.contains("p6.bias"));
  EXPECT_FALSE(values.contains("p6.norm.weight"));
  const auto unit = [&](const at::Tensor& x, const std::string& name) {
    const auto& w = values[name + ".weight"];
    const auto get = [&](const char* leaf) { return values[name + ".norm." + leaf]; };
    return at::batch_norm(at::conv2d(x, w, {}, 1, w.size(2) / 2), get("weight"), get("bias"),
                          get("running_mean"), get("running_var"), false, 0.1, 1e-5, false);
  };
  const auto c = taps();
  const auto p5 = unit(unit(c[3], "lateral5"), "output5");
  const auto levels = fpn.forward(c);
  testing::expect_near(levels[2], p5, 1e-5);
  testing::expect_near(levels[3], at::conv2d(p5, values["p6.weight"], values["p6.bias"], 2, 1), 1e-5);
}

TEST(Fpn, PoolingTakesEvenPositions) {
  const c10::AutoGradMode no_grad(false);
  const auto owner = std::make_shared<Fpn>(
      NeckConfig{.channels = 4, .min_level = 2, .max_level = 6, .extra = "pool"}, kChannels);
  auto& fpn = *owner;
  const auto levels = fpn.forward(taps());
  EXPECT_TRUE(levels[4].equal(levels[3].slice(2, 0, std::nullopt, 2).slice(3, 0, std::nullopt, 2)));
}

TEST(Fpn, LoweredEqualsTheOriginal) {
  const c10::AutoGradMode no_grad(false);
  const auto owner = std::make_shared<Fpn>(NeckConfig{.channels = 6}, kChannels);
  auto& fpn = *owner;
  testing::randomize(fpn);
  std::vector<at::Tensor> maps;
  for (const auto& tap : taps()) maps.push_back(tap.contiguous(at::MemoryFormat::ChannelsLast));
  const auto expected = fpn.forward(maps);
  lower_units(fpn, at::kFloat);
  const auto levels = fpn.forward(maps);
  for (size_t i = 0; i < levels.size(); ++i) testing::expect_near(levels[i], expected[i], 1e-5);
}

TEST(Fpn, LoweredHalvesTheFinestLevel) {
  const c10::AutoGradMode no_grad(false);
  at::manual_seed(4);
  const NeckConfig config{.channels = 6, .min_level = 2, .max_level = 6, .extra = "pool"};
  const auto fpn = std::make_shared<Fpn>(config, kChannels);
  testing::randomize(*fpn);
  const auto c = taps();
  const auto expected = fpn->forward(c);
  fpn->lower(at::kFloat, /*halve_finest=*/true);
  std::vector<at::Tensor> nhwc;
  for (const auto& map : c) nhwc.push_back(map.contiguous(at::MemoryFormat::ChannelsLast));
  const auto found = fpn->forward(nhwc);
  ASSERT_EQ(found.size(), expected.size());
  EXPECT_TRUE(at::allclose(found[0], at::avg_pool2d(expected[0], 2), 1e-4, 1e-5));
  for (size_t i = 1; i < found.size(); ++i) EXPECT_TRUE(at::allclose(found[i], expected[i], 1e-4, 1e-5)) << i;
}

}  // namespace
}  // namespace instseg
