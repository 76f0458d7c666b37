// SPDX-License-Identifier: Apache-2.0
#include "losses/solo_losses.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>

#include <cmath>

#include "networks.h"

namespace instseg {
namespace {

constexpr int64_t kClasses = 3;

struct Case {
  std::vector<at::Tensor> logits;
  std::vector<SoloTargets> targets;
  LossConfig loss;

  /** Two levels of two images; `positives` cells have an object. */
  explicit Case(bool positives) {
    at::manual_seed(1);
    for (const int64_t s : {5, 3}) {
      logits.push_back((2 * at::randn({2, kClasses, s, s})).requires_grad_());
      targets.push_back({.labels = at::full({2, s, s}, kClasses, at::kLong)});
    }
    loss.focal_alpha = 0.3;
    loss.focal_gamma = 1.5;
    if (!positives) return;
    targets[0].labels[0][1][2] = 0;
    targets[0].labels[1][4][4] = 2;
    targets[1].labels[1][0][2] = 1;
  }

  at::Tensor value() const { return solo_category_loss(logits, targets, kClasses, loss); }

  /** Cell by cell and class by class, in double. */
  double twin() const {
    double sum = 0;
    for (size_t level = 0; level < logits.size(); ++level) {
      const int64_t s = logits[level].size(2);
      for (int64_t i = 0; i < 2 * s * s; ++i) {
        const int64_t image = i / (s * s), row = i / s % s, column = i % s;
        const auto label = targets[level].labels[image][row][column].item<int64_t>();
        for (int64_t c = 0; c < kClasses; ++c) {
          const auto z = logits[level][image][c][row][column].item<double>() * (c == label ? 1 : -1);
          const double p = 1 / (1 + std::exp(-z)), weight = c == label ? 0.3 : 0.7;  // p of what is true
          sum -= weight * std::pow(1 - p, 1.5) * std::log(p);
        }
      }
    }
    return sum;
  }
};

TEST(SoloCategoryLoss, EqualsTheFormula) {
  for (const bool positives : {true, false}) {
    const Case given(positives);
    const auto value = given.value();
    EXPECT_EQ(value.dim(), 0);
    EXPECT_EQ(value.scalar_type(), at::kFloat);
    EXPECT_NEAR(value.item<double>(), given.twin(), 1e-5 * given.twin()) << positives;
  }
}

TEST(SoloCategoryLoss, EveryLogitHasAGradientOfTheRightSign) {
  const Case given(true);
  given.value().backward();
  for (size_t level = 0; level < given.logits.size(); ++level) {
    const auto grad = given.logits[level].grad().permute({0, 2, 3, 1});
    auto sign = at::full(grad.sizes(), 1.F);
    const auto& labels = given.targets[level].labels;
    for (int64_t c = 0; c < kClasses; ++c) sign.select(3, c).masked_fill_(labels.eq(c), -1);
    EXPECT_TRUE(grad.sign().equal(sign)) << level;
  }
}

TEST(SoloCategoryLoss, LayoutOfTheLogitsDoesNotMatter) {
  const Case given(true);
  auto turned = given;
  for (auto& map : turned.logits) map = map.contiguous(at::MemoryFormat::ChannelsLast);
  EXPECT_EQ(turned.value().item<float>(), given.value().item<float>());
}

TEST(SoloNormalizers, CountCellsAndMasksOfAllLevels) {
  auto targets = Case(true).targets;
  targets[0].cells = at::zeros({2}, at::kLong);
  targets[1].cells = at::zeros({3}, at::kLong);  // SOLOv2: an object may have lost its label to another
  const auto counts = solo_normalizers(targets, kClasses);
  EXPECT_EQ(counts[0].item<float>(), 3);
  EXPECT_EQ(counts[1].item<float>(), 5);
}

}  // namespace
}  // namespace instseg
