// SPDX-License-Identifier: Apache-2.0
#include "losses/mask_losses.h"

#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "networks.h"

namespace instseg {
namespace {

TEST(DiceLoss, EqualsTheFormula) {
  at::manual_seed(1);
  const auto p = at::rand({3, 4, 5}), g = at::rand({3, 4, 5}).gt(0.6).to(at::kFloat);
  for (const double eps : {1e-5, 2.0}) {
    const auto losses = dice_loss(p, g, eps);
    ASSERT_EQ(losses.sizes(), at::IntArrayRef({3}));
    for (int64_t i = 0; i < 3; ++i) {
      double overlap = 0, squares = 0;
      for (int64_t k = 0; k < 20; ++k) {
        const double a = p[i].flatten()[k].item<double>(), b = g[i].flatten()[k].item<double>();
        overlap += a * b;
        squares += a * a + b * b;
      }
      EXPECT_NEAR(losses[i].item<double>(), 1 - 2 * overlap / (squares + eps), 1e-6);
    }
  }
}

TEST(DiceLoss, OfEqualAndOfDisjointMasks) {
  const auto mask = at::tensor({0.f, 1.f, 1.f, 0.f}).view({1, 2, 2});
  EXPECT_NEAR(dice_loss(mask, mask, 1e-5).item<double>(), 0, 1e-5);
  EXPECT_EQ(dice_loss(1 - mask, mask, 1e-5).item<double>(), 1.0);
  EXPECT_EQ(dice_loss(at::zeros({1, 2, 2}), at::zeros({1, 2, 2}), 1e-5).item<double>(), 1.0);
}

TEST(DiceLoss, GradientEqualsTheQuotientRule) {
  at::manual_seed(2);
  const auto p = at::rand({1, 6}, at::kDouble).requires_grad_();
  const auto g = at::rand({1, 6}, at::kDouble).gt(0.5).to(at::kDouble);
  dice_loss(p, g, 0.5).sum().backward();
  const c10::AutoGradMode no_grad(false);
  const auto overlap = (p * g).sum(), total = p.square().sum() + g.sum() + 0.5;
  testing::expect_near(p.grad(), -2 * (g * total - overlap * 2 * p) / total.square(), 1e-12);
}

TEST(MeanOrZero, IsTheMean) { EXPECT_FLOAT_EQ(mean_or_zero(at::tensor({1.f, 2.f, 6.f})).item<float>(), 3.f); }

TEST(MeanOrZero, OfNothingIsAZeroWithGradient) {
  const auto weight = at::full({3}, 2.0).requires_grad_();
  const auto nothing = weight.narrow(0, 0, 0) * 5;
  const auto zero = mean_or_zero(nothing);
  EXPECT_EQ(zero.dim(), 0);
  EXPECT_EQ(zero.item<float>(), 0.f);
  zero.backward();
  ASSERT_TRUE(weight.grad().defined());
  EXPECT_TRUE(weight.grad().equal(at::zeros({3})));
}

double focal(double logit, bool positive, double alpha, double gamma) {
  const double p = 1 / (1 + std::exp(-logit)), correct = positive ? p : 1 - p;
  return -(positive ? alpha : 1 - alpha) * std::pow(1 - correct, gamma) * std::log(correct);
}

double naive_focal(const at::Tensor& logits, const at::Tensor& labels) {
  double sum = 0;
  int64_t known = 0;
  for (int64_t b = 0; b < logits.size(0); ++b) {
    for (int64_t y = 0; y < logits.size(2); ++y) {
      for (int64_t x = 0; x < logits.size(3); ++x) {
        const auto label = labels[b][y][x].item<int64_t>();
        known += label >= 0 ? 1 : 0;
        for (int64_t c = 0; c < logits.size(1); ++c) {
          sum += focal(logits[b][c][y][x].item<double>(), c == label, 0.3, 1.5);
        }
      }
    }
  }
  return sum / static_cast<double>(std::max<int64_t>(known, 1));
}

TEST(SemanticFocalLoss, EqualsTheFormula) {
  at::manual_seed(3);
  const auto logits = at::randn({2, 3, 4, 5}) * 2;
  const auto labels = at::randint(-1, 3, {2, 4, 5}, at::kLong);
  ASSERT_TRUE(labels.eq(-1).any().item<bool>() && labels.eq(2).any().item<bool>());
  EXPECT_NEAR(semantic_focal_loss(logits, labels, 0.3, 1.5).item<double>(), naive_focal(logits, labels),
              1e-4);
}

TEST(SemanticFocalLoss, BackgroundAloneIsDividedByOne) {
  at::manual_seed(4);
  const auto logits = at::randn({1, 2, 3, 3}).requires_grad_();
  const auto labels = at::full({1, 3, 3}, -1, at::kLong);
  const auto loss = semantic_focal_loss(logits, labels, 0.3, 1.5);
  EXPECT_NEAR(loss.item<double>(), naive_focal(logits.detach(), labels), 1e-4);
  loss.backward();
  EXPECT_GT(logits.grad().min().item<float>(), 0.f);  // every class is pushed down everywhere
}

}  // namespace
}  // namespace instseg
