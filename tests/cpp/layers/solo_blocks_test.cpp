// SPDX-License-Identifier: Apache-2.0
#include "layers/solo_blocks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include <cmath>

#include "layers/solo_head.h"
#include "layers/solo_twin.h"

namespace instseg {
namespace {

using namespace solo_test;

TEST(WithCoordinates, AreAppendedAfterTheFeatures) {
  const auto x = pyramid()[2].slice(2, 0, 3).slice(3, 0, 5).contiguous(at::MemoryFormat::ChannelsLast);
  const auto both = with_coordinates(x);
  EXPECT_TRUE(both.sizes().equals({kImages, kIn + 2, 3, 5}));
  EXPECT_TRUE(both.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(both.narrow(1, 0, kIn).equal(x));
  const auto columns = at::tensor({-1.F, -0.5F, 0.F, 0.5F, 1.F}), rows = at::tensor({-1.F, 0.F, 1.F});
  for (int64_t image = 0; image < kImages; ++image) {
    testing::expect_near(both[image][kIn], columns.view({1, 5}).expand({3, 5}), 1e-6);
    testing::expect_near(both[image][kIn + 1], rows.view({3, 1}).expand({3, 5}), 1e-6);
  }
  EXPECT_TRUE(with_coordinates(x, true, false).equal(both.narrow(1, 0, kIn + 1)));
  EXPECT_TRUE(with_coordinates(x, false, true)[1][kIn].equal(both[1][kIn + 1]));
}

TEST(WithCoordinates, AreRoundedOnceInBfloat16) {
  const auto x = at::randn({1, 2, 3, 50}).to(at::kBFloat16);
  const auto found = with_coordinates(x);
  EXPECT_EQ(found.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(found[0][2][0].equal(line(50).to(at::kFloat).to(at::kBFloat16)));
}

TEST(ChannelConv, ComputesTheRowsAskedFor) {
  for (const int64_t kernel : {1, 3}) {
    at::manual_seed(4);
    ChannelConv conv(8, 6, kernel, 0.2);
    EXPECT_NEAR(conv.bias[5].item<double>(), std::log(0.25), 1e-6);
    spread(conv);
    const auto x = at::randn({2, 8, 5, 7});
    const auto all = conv.forward(x), rows = at::tensor({4, 1, 4}, at::kLong);
    testing::expect_near(all, at::conv2d(x, conv.weight, conv.bias, 1, kernel / 2), 1e-6);
    testing::expect_near(conv.forward(x, rows), all.index_select(1, rows), 1e-6);
    conv.forward(x, rows).sum().backward();
    const auto trained = conv.weight.grad().abs().sum({1, 2, 3}).gt(0).to(at::kLong);
    EXPECT_TRUE(trained.equal(at::tensor({0, 1, 0, 0, 1, 0}, at::kLong)));
  }
}

std::shared_ptr<SoloMaskBranch> make_branch() {
  at::manual_seed(5);
  auto branch = std::make_shared<SoloMaskBranch>(config_of("solov2"), kIn);
  spread(*branch);
  return branch;
}

TEST(SoloMaskBranch, EqualsPlainCalls) {
  const c10::AutoGradMode no_grad(false);
  const auto branch = make_branch();
  const auto p = pyramid();
  const Twin twin(*branch);
  auto sum = twin.block(p[0], "level0.0") + doubled(twin.block(p[1], "level1.0")) +
             doubled(twin.block(doubled(twin.block(p[2], "level2.0")), "level2.1"));
  auto coarsest = placed(p[3], true, true);
  for (const char* name : {"level3.0", "level3.1", "level3.2"})
    coarsest = doubled(twin.block(coarsest, name));
  const auto expected = twin.block(sum + coarsest, "output");
  EXPECT_TRUE(expected.sizes().equals({kImages, 32, kQuarter.height, kQuarter.width}));
  const auto maps = branch->forward(p);
  testing::expect_near(maps, expected, 1e-5);
  branch->lower(at::kFloat);
  testing::expect_near(branch->forward(p), maps, 1e-4);
}

TEST(SoloMaskBranch, OutputIsFloatWhenLoweredToBfloat16) {
  const c10::AutoGradMode no_grad(false);
  const auto branch = make_branch();
  auto p = pyramid();
  const auto maps = branch->forward(p);
  branch->lower(at::kBFloat16);
  for (auto& map : p) map = map.to(at::kBFloat16);
  const auto lowered = branch->forward(p);
  EXPECT_EQ(lowered.scalar_type(), at::kFloat);
  EXPECT_FALSE(lowered.to(at::kBFloat16).to(at::kFloat).equal(lowered));
  testing::expect_near(lowered, maps, 5e-2);
}

TEST(SoloMaskBranch, NamesAndShapesOfParameters) {
  Shapes expected;
  add_block(expected, "level0.0", kIn, 64);
  add_block(expected, "level1.0", kIn, 64);
  add_block(expected, "level2.0", kIn, 64);
  add_block(expected, "level2.1", 64, 64);
  add_block(expected, "level3.0", kIn + 2, 64);
  add_block(expected, "level3.1", 64, 64);
  add_block(expected, "level3.2", 64, 64);
  add_block(expected, "output", 64, 32, 1);
  const auto branch = make_branch();
  EXPECT_EQ(shapes(*branch), expected);
  branch->forward(pyramid()).square().sum().backward();
  for (const auto& item : branch->named_parameters())
    EXPECT_GT(item.value().grad().abs().max().item<float>(), 0.F) << item.key();
}

}  // namespace
}  // namespace instseg
