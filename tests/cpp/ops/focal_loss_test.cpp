// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/focal_loss.h"

#include <ATen/Parallel.h>

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::difference;
using test::expect_error;

// Lin et al. 2017, section 3, with a one-hot target in float64.
at::Tensor plain_focal_loss(const at::Tensor& logits, const at::Tensor& labels, double alpha, double gamma) {
  const at::Tensor classes = at::arange(logits.size(1), labels.options());
  const at::Tensor hot = (labels.unsqueeze(1) == classes).to(at::kDouble);
  const at::Tensor z = logits * (1 - 2 * hot);  // the wrong answer's logit
  const at::Tensor weight = alpha * hot + (1 - alpha) * (1 - hot);
  return (weight * z.sigmoid().pow(gamma) * at::softplus(z, 1, 1000)).sum();
}

at::Tensor random_labels(int64_t rows, int64_t classes) {
  return at::randint(-1, classes + 2, {rows}, at::kLong);
}

struct LossAndGrad {
  at::Tensor loss, grad;
};

template <class Function>
LossAndGrad evaluate(const Function& function, const at::Tensor& logits, double scale = 1) {
  const at::Tensor leaf = logits.detach().clone().requires_grad_();
  const at::Tensor loss = function(leaf);
  (loss * scale).backward();
  return {loss.detach(), leaf.grad()};
}

class FocalLossTest : public test::DeviceTest {
 protected:
  void expect_twin(const at::Tensor& logits, const at::Tensor& labels, double alpha, double gamma) {
    const auto ours =
        evaluate([&](const at::Tensor& x) { return sigmoid_focal_loss(x, here(labels), alpha, gamma); },
                 here(logits), 0.5);
    const auto twin = evaluate([&](const at::Tensor& x) { return plain_focal_loss(x, labels, alpha, gamma); },
                               logits.to(at::kDouble), 0.5);
    const double expected = twin.loss.item<double>();
    EXPECT_EQ(ours.loss.scalar_type(), at::kFloat);
    EXPECT_NEAR(ours.loss.item<double>(), expected, 1e-6 * expected) << logits.sizes() << " gamma " << gamma;
    const double rounding = logits.scalar_type() == at::kFloat ? 2e-6 : 8e-3;
    EXPECT_EQ(ours.grad.scalar_type(), logits.scalar_type());
    EXPECT_LE(difference(ours.grad, twin.grad), rounding * twin.grad.abs().max().item<double>())
        << logits.sizes() << " gamma " << gamma;
  }
};
INSTSEG_ON_DEVICES(FocalLossTest);

TEST_P(FocalLossTest, MatchesTwin) {
  for (const int64_t classes : {1, 3, 80, 600}) {
    const at::Tensor logits = at::randn({257, classes}) * 4 - 2, labels = random_labels(257, classes);
    expect_twin(logits, labels, 0.25, 2.0);
    expect_twin(logits, labels, 0.6, 1.5);
    expect_twin(logits, labels, 0.5, 0.0);
  }
}

TEST_P(FocalLossTest, LargeSumsStayExact) {
  const at::Tensor logits = at::randn({20000, 80}) * 2 - 4, labels = random_labels(20000, 80);
  expect_twin(logits, labels, 0.25, 2.0);
}

TEST_P(FocalLossTest, StableForLargeLogits) {
  const at::Tensor values = at::tensor({-1e4f, -300.f, -100.f, -30.f, 0.f, 30.f, 100.f, 300.f, 1e4f});
  for (int64_t column = 0; column < values.numel(); ++column) {
    const at::Tensor logits = values.view({1, -1});
    expect_twin(logits, at::full({1}, column, at::kLong), 0.25, 2.0);
    expect_twin(logits, at::full({1}, column, at::kLong), 0.25, 3.0);
  }
}

TEST_P(FocalLossTest, HalfPrecisionIsComputedInFloat) {
  const at::Tensor logits = at::randn({300, 80}) * 3, labels = random_labels(300, 80);
  expect_twin(logits.to(at::kBFloat16), labels, 0.25, 2.0);
  expect_twin(logits.to(at::kHalf), labels, 0.25, 2.0);
}

TEST_P(FocalLossTest, GradientMatchesNumericGradient) {
  const at::Tensor logits = at::randn({5, 7}), labels = random_labels(5, 7);
  const auto ours =
      evaluate([&](const at::Tensor& x) { return sigmoid_focal_loss(x, here(labels)); }, here(logits));
  const at::Tensor numeric = test::numeric_gradient(
      [&](const at::Tensor& x) { return plain_focal_loss(x, labels, 0.25, 2.0); }, logits.to(at::kDouble));
  EXPECT_LE(difference(ours.grad, numeric), 1e-6);
}

TEST_P(FocalLossTest, ViewsKeepTheirGradient) {
  const at::Tensor logits = at::randn({6, 40}), labels = random_labels(40, 6);
  const auto ours =
      evaluate([&](const at::Tensor& x) { return sigmoid_focal_loss(x.t(), here(labels)); }, here(logits));
  const auto twin = evaluate([&](const at::Tensor& x) { return plain_focal_loss(x.t(), labels, 0.25, 2.0); },
                             logits.to(at::kDouble));
  EXPECT_LE(difference(ours.grad, twin.grad), 1e-6);
}

TEST_P(FocalLossTest, EmptyInputIsZeroWithGradient) {
  const auto ours =
      evaluate([&](const at::Tensor& x) { return sigmoid_focal_loss(x, here(at::empty({0}, at::kLong))); },
               here(at::empty({0, 80})));
  EXPECT_EQ(ours.loss.item<float>(), 0.f);
  EXPECT_EQ(ours.grad.sizes(), at::IntArrayRef({0, 80}));
}

TEST_P(FocalLossTest, NanReachesTheLoss) {
  at::Tensor logits = at::zeros({4, 3});
  logits[2][1] = NAN;
  EXPECT_TRUE(std::isnan(sigmoid_focal_loss(here(logits), here(at::zeros({4}, at::kLong))).item<float>()));
  EXPECT_TRUE(std::isnan(sigmoid_focal_loss(here(logits), here(at::ones({4}, at::kLong))).item<float>()));
}

TEST_P(FocalLossTest, RejectsBadInput) {
  const at::Tensor logits = here(at::zeros({3, 4})), labels = here(at::zeros({3}, at::kLong));
  expect_error<ValueError>([&] { sigmoid_focal_loss(here(at::zeros({3})), labels); }, "expected [N, C]");
  expect_error<ValueError>([&] { sigmoid_focal_loss(here(at::zeros({3, 0})), labels); }, "[3, 0]");
  expect_error<ValueError>([&] { sigmoid_focal_loss(logits, here(at::zeros({2}, at::kLong))); },
                           "labels has shape [2]");
  expect_error<ValueError>([&] { sigmoid_focal_loss(logits, labels, 1.25); }, "alpha is 1.25");
  expect_error<ValueError>([&] { sigmoid_focal_loss(logits, labels, 0.25, -1); }, "gamma is -1");
  expect_error<TypeError>([&] { sigmoid_focal_loss(logits.to(at::kDouble), labels); }, "logits is Double");
  expect_error<TypeError>([&] { sigmoid_focal_loss(logits, labels.to(at::kFloat)); }, "labels is Float");
}

TEST(FocalLossCpuTest, SumDoesNotDependOnTheThreads) {
  const at::Tensor logits = at::randn({5000, 80}), labels = random_labels(5000, 80);
  const int threads = at::get_num_threads();
  const float parallel = sigmoid_focal_loss(logits, labels).item<float>();
  at::set_num_threads(1);
  const float serial = sigmoid_focal_loss(logits, labels).item<float>();
  at::set_num_threads(threads);
  EXPECT_EQ(parallel, serial);
}

}  // namespace
}  // namespace instseg
