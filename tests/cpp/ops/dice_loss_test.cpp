// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/dice_loss.h"

#include <ATen/Parallel.h>

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::difference;
using test::expect_error;

// Milletari et al. 2016 in plain tensor operations.
at::Tensor plain_dice(const at::Tensor& maps, const at::Tensor& masks, double eps, bool logits) {
  const auto p = (logits ? maps.sigmoid() : maps).flatten(1), g = masks.to(maps.dtype()).flatten(1);
  return 1 - 2 * (p * g).sum(1) / ((p * p).sum(1) + (g * g).sum(1) + eps);
}

struct LossAndGrad {
  at::Tensor loss, grad;
};

template <class Function>
LossAndGrad evaluate(const Function& function, const at::Tensor& maps, const at::Tensor& weight) {
  const auto leaf = maps.detach().clone().requires_grad_();
  const auto loss = function(leaf);
  (loss * weight.to(loss.device())).sum().backward();
  return {loss.detach(), leaf.grad()};
}

class DiceLossTest : public test::DeviceTest {
 protected:
  at::Tensor random_masks(int64_t count, int64_t height, int64_t width) {
    return at::rand({count, height, width}).gt(0.7).to(at::kByte);
  }

  void expect_twin(const at::Tensor& maps, const at::Tensor& masks, const at::Tensor& index, double eps,
                   bool logits) {
    const auto weight = at::rand({maps.size(0)}) + 0.5;
    const auto ours =
        evaluate([&](const auto& x) { return dice_loss(x, here(masks), here(index), eps, logits); },
                 here(maps), weight);
    const auto twin =
        evaluate([&](const auto& x) { return plain_dice(x, masks.index_select(0, index), eps, logits); },
                 maps.to(at::kDouble), weight);
    EXPECT_EQ(ours.loss.scalar_type(), at::kFloat);
    EXPECT_LE(difference(ours.loss, twin.loss), 1e-6) << maps.sizes();
    const double rounding = maps.scalar_type() == at::kFloat ? 2e-6 : 8e-3;
    EXPECT_EQ(ours.grad.scalar_type(), maps.scalar_type());
    EXPECT_LE(difference(ours.grad, twin.grad), rounding * twin.grad.abs().max().item<double>())
        << maps.sizes() << " logits " << logits;
  }
};
INSTSEG_ON_DEVICES(DiceLossTest);

TEST_P(DiceLossTest, MatchesTwin) {
  for (const auto& [height, width] : {std::pair{1, 1}, {3, 5}, {40, 61}, {80, 120}}) {
    const auto masks = random_masks(3, height, width);
    const auto index = at::tensor({2, 0, 0, 1, 2}, at::kLong);
    expect_twin(at::randn({5, height, width}) * 4, masks, index, 1e-5, true);
    expect_twin(at::rand({5, height, width}), masks, index, 2e-3, false);
  }
}

TEST_P(DiceLossTest, HalfPrecisionIsComputedInFloat) {
  const auto masks = random_masks(4, 9, 14), index = at::arange(4);
  expect_twin((at::randn({4, 9, 14}) * 3).to(at::kBFloat16), masks, index, 1e-5, true);
  expect_twin((at::randn({4, 9, 14}) * 3).to(at::kHalf), masks, index, 1e-5, true);
}

TEST_P(DiceLossTest, WithoutIndexMapsAndMasksArePairs) {
  const auto maps = here(at::randn({3, 6, 6})), masks = here(random_masks(3, 6, 6));
  EXPECT_TRUE(test::same(dice_loss(maps, masks), dice_loss(maps, masks, here(at::arange(3)))));
  EXPECT_TRUE(test::same(dice_loss(maps, masks), dice_loss(maps, masks.to(at::kBool))));
}

TEST_P(DiceLossTest, OfEqualAndOfDisjointMasks) {
  const auto mask = here(at::tensor({0, 1, 1, 0}, at::kByte).view({1, 2, 2}));
  const auto p = mask.to(at::kFloat);
  EXPECT_NEAR(dice_loss(p, mask, {}, 1e-5, false).item<double>(), 0, 1e-5);
  EXPECT_EQ(dice_loss(1 - p, mask, {}, 1e-5, false).item<double>(), 1.0);
  EXPECT_EQ(dice_loss(0 * p, 0 * mask, {}, 1e-5, false).item<double>(), 1.0);
}

TEST_P(DiceLossTest, LargeLogitsStayFinite) {
  const auto maps = at::tensor({-1e4f, -90.f, 0.5f, -0.5f, 90.f, 1e4f}).view({1, 2, 3});
  const auto masks = at::tensor({0, 1, 1, 0, 1, 0}, at::kByte).view({1, 2, 3});
  expect_twin(maps, masks, at::zeros({1}, at::kLong), 1e-5, true);
}

TEST_P(DiceLossTest, NanReachesItsLossAlone) {
  at::Tensor maps = at::zeros({2, 4, 5});
  maps[1][2][3] = NAN;
  const auto losses = dice_loss(here(maps), here(random_masks(2, 4, 5))).cpu();
  EXPECT_FALSE(std::isnan(losses[0].item<float>()));
  EXPECT_TRUE(std::isnan(losses[1].item<float>()));
}

TEST_P(DiceLossTest, ViewsKeepTheirGradient) {
  const auto maps = at::randn({4, 5, 3}), masks = random_masks(3, 5, 4), weight = at::rand({3});
  const auto ours = evaluate([&](const auto& x) { return dice_loss(x.permute({2, 1, 0}), here(masks)); },
                             here(maps), weight);
  const auto twin =
      evaluate([&](const auto& x) { return plain_dice(x.permute({2, 1, 0}), masks, 1e-5, true); },
               maps.to(at::kDouble), weight);
  EXPECT_LE(difference(ours.grad, twin.grad), 1e-6);
}

TEST_P(DiceLossTest, EmptyInputGivesNothingWithGradient) {
  const auto ours =
      evaluate([&](const auto& x) { return dice_loss(x, here(at::zeros({0, 4, 4}, at::kByte))); },
               here(at::zeros({0, 4, 4})), at::zeros({0}));
  EXPECT_EQ(ours.loss.sizes(), at::IntArrayRef({0}));
  EXPECT_EQ(ours.grad.sizes(), at::IntArrayRef({0, 4, 4}));
}

TEST_P(DiceLossTest, RejectsBadInput) {
  const auto maps = here(at::zeros({2, 3, 4})), masks = here(at::zeros({2, 3, 4}, at::kByte));
  expect_error<ValueError>([&] { dice_loss(maps, here(at::zeros({2, 4, 3}, at::kByte))); }, "[2, 4, 3]");
  expect_error<ValueError>([&] { dice_loss(maps, masks.narrow(0, 0, 1)); }, "1 masks for 2 maps");
  expect_error<ValueError>([&] { dice_loss(maps, masks, here(at::zeros({3}, at::kLong))); },
                           "index has shape [3]");
  expect_error<ValueError>([&] { dice_loss(maps, masks, {}, 0); }, "eps is 0");
  expect_error<TypeError>([&] { dice_loss(maps, maps); }, "masks are Float");
  expect_error<TypeError>([&] { dice_loss(maps.to(at::kDouble), masks); }, "maps is Double");
}

TEST(DiceLossCpuTest, RejectsAnIndexOutsideOfTheMasks) {
  const auto maps = at::zeros({2, 3, 4}), masks = at::zeros({2, 3, 4}, at::kByte);
  expect_error<ValueError>([&] { dice_loss(maps, masks, at::tensor({0, 2}, at::kLong)); }, "index[1] is 2");
  expect_error<ValueError>([&] { dice_loss(maps, masks, at::tensor({-1, 0}, at::kLong)); }, "index[0] is -1");
}

TEST(DiceLossCpuTest, DoesNotDependOnTheThreads) {
  const auto maps = at::randn({40, 64, 64}), masks = at::rand({40, 64, 64}).gt(0.5).to(at::kByte);
  const int threads = at::get_num_threads();
  const auto parallel = dice_loss(maps, masks);
  at::set_num_threads(1);
  const auto serial = dice_loss(maps, masks);
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(parallel, serial));
}

}  // namespace
}  // namespace instseg
