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
