// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/box_loss.h"

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::difference;
using test::expect_error;

struct Overlap {
  at::Tensor iou, giou;  // [P]
};

// The definition in float64; epsilon 1e-7 replaces the smoothing when that is 0.
Overlap plain_overlap(const at::Tensor& pred, const at::Tensor& target, double smoothing) {
  const auto side = [](const at::Tensor& boxes, int64_t k) { return boxes.select(1, k); };
  const at::Tensor low = at::minimum(pred, target), high = at::maximum(pred, target);
  const at::Tensor inter = (side(low, 0) + side(low, 2)) * (side(low, 1) + side(low, 3));
  const at::Tensor outer = (side(high, 0) + side(high, 2)) * (side(high, 1) + side(high, 3));
  const at::Tensor join = (side(pred, 0) + side(pred, 2)) * (side(pred, 1) + side(pred, 3)) +
                          (side(target, 0) + side(target, 2)) * (side(target, 1) + side(target, 3)) - inter;
  const double epsilon = smoothing == 0 ? 1e-7 : 0;
  const at::Tensor iou = (inter + smoothing) / (join + smoothing + epsilon);
  return {iou, iou - (outer - join) / (outer + epsilon)};
}

at::Tensor plain_box_loss(const at::Tensor& pred, const at::Tensor& target, const at::Tensor& weight,
                          const std::string& kind, double smoothing) {
  const Overlap overlap = plain_overlap(pred, target.to(at::kDouble), smoothing);
  const at::Tensor loss = kind == "iou"          ? -overlap.iou.log()
                          : kind == "linear_iou" ? 1 - overlap.iou
                                                 : 1 - overlap.giou;
  return (weight.defined() ? loss * weight.to(at::kDouble) : loss).sum();
}

struct LossAndGrad {
  at::Tensor loss, grad;
};

template <class Function>
LossAndGrad evaluate(const Function& function, const at::Tensor& pred) {
  const at::Tensor leaf = pred.detach().clone().requires_grad_();
  const at::Tensor loss = function(leaf);
  (loss * 3).backward();
  return {loss.detach(), leaf.grad()};
}

const std::vector<std::string> kKinds = {"giou", "iou", "linear_iou"};

class BoxLossTest : public test::DeviceTest {
 protected:
  void expect_twin(const at::Tensor& pred, const at::Tensor& target, const at::Tensor& weight,
                   const std::string& kind, double smoothing) {
    const at::Tensor w = weight.defined() ? here(weight) : weight;
    const auto ours = evaluate(
        [&](const at::Tensor& x) { return box_loss(x, here(target), w, kind, smoothing); }, here(pred));
    const auto twin =
        evaluate([&](const at::Tensor& x) { return plain_box_loss(x, target, weight, kind, smoothing); },
                 pred.to(at::kDouble));
    const double expected = twin.loss.item<double>();
    EXPECT_EQ(ours.loss.scalar_type(), at::kFloat);
    EXPECT_NEAR(ours.loss.item<double>(), expected, 1e-6 * std::abs(expected)) << kind << " " << smoothing;
    EXPECT_EQ(ours.grad.scalar_type(), pred.scalar_type());
    const double rounding = pred.scalar_type() == at::kFloat ? 1e-6 : 8e-3;
    EXPECT_LE(difference(ours.grad, twin.grad), rounding * twin.grad.abs().max().item<double>())
        << kind << " " << smoothing;
  }
};
INSTSEG_ON_DEVICES(BoxLossTest);

TEST_P(BoxLossTest, MatchesTwin) {
  const at::Tensor pred = at::rand({500, 4}) * 8 + 0.01, target = at::rand({500, 4}) * 8 + 0.01;
  const at::Tensor weight = at::rand({500});
  for (const auto& kind : kKinds) {
    for (const double smoothing : {1.0, 0.25, 0.0}) {
      expect_twin(pred, target, weight, kind, smoothing);
      expect_twin(pred, target, at::Tensor(), kind, smoothing);
      expect_twin(pred.to(at::kBFloat16), target, weight, kind, smoothing);
    }
  }
}

TEST_P(BoxLossTest, EqualSidesSplitTheGradientAsAutograd) {
  const at::Tensor target = at::rand({64, 4}) * 8 + 0.5;
  const at::Tensor pred = at::where(at::rand({64, 4}) < 0.5, target, at::rand({64, 4}) * 8);
  for (const auto& kind : kKinds) {
    for (const double smoothing : {1.0, 0.0}) expect_twin(pred, target, at::Tensor(), kind, smoothing);
  }
}

TEST_P(BoxLossTest, ZeroPredictionsHaveFiniteGradients) {
  const at::Tensor pred = at::zeros({3, 4}), target = at::rand({3, 4}) + 1;  // what ReLU gives at the start
  for (const auto& kind : kKinds) expect_twin(pred, target, at::Tensor(), kind, 1.0);
}

TEST_P(BoxLossTest, GradientMatchesNumericGradient) {
  const at::Tensor pred = at::rand({6, 4}) * 5 + 0.5, target = at::rand({6, 4}) * 5 + 0.5;
  for (const auto& kind : kKinds) {
    const auto ours =
        evaluate([&](const at::Tensor& x) { return box_loss(x, here(target), {}, kind); }, here(pred));
    const at::Tensor numeric = test::numeric_gradient(
        [&](const at::Tensor& x) { return plain_box_loss(x, target, {}, kind, 1.0); }, pred.to(at::kDouble));
    EXPECT_LE(difference(ours.grad, numeric * 3), 1e-6) << kind;
  }
}

TEST_P(BoxLossTest, NoPairsIsZeroWithGradient) {
  const auto ours = evaluate([&](const at::Tensor& x) { return box_loss(x, here(at::empty({0, 4})), {}); },
                             here(at::empty({0, 4})));
  EXPECT_EQ(ours.loss.item<float>(), 0.f);
  EXPECT_EQ(ours.grad.sizes(), at::IntArrayRef({0, 4}));
}

TEST_P(BoxLossTest, IouHasNoGradient) {
  const at::Tensor pred = (at::rand({100, 4}) * 8).requires_grad_(), target = at::rand({100, 4}) * 8 + 0.1;
  for (const double smoothing : {1.0, 0.0}) {
    const at::Tensor iou = box_iou(here(pred), here(target), smoothing);
    EXPECT_FALSE(iou.requires_grad());
    const Overlap twin = plain_overlap(pred.detach().to(at::kDouble), target.to(at::kDouble), smoothing);
    EXPECT_LE(difference(iou, twin.iou), 1e-7);
  }
}

TEST_P(BoxLossTest, RejectsBadInput) {
  const at::Tensor boxes = here(at::ones({3, 4}));
  expect_error<ValueError>([&] { box_loss(here(at::ones({3, 3})), boxes, {}); }, "pred has shape [3, 3]");
  expect_error<ValueError>([&] { box_loss(here(at::ones({2, 4})), boxes, {}); }, "pred has 2 rows, target 3");
  expect_error<ValueError>([&] { box_loss(boxes, boxes, here(at::ones({2}))); }, "weight has shape [2]");
  expect_error<ValueError>([&] { box_loss(boxes, boxes, {}, "ciou"); }, "kind 'ciou' is not one of");
  expect_error<ValueError>([&] { box_loss(boxes, boxes, {}, "giou", -1); }, "smoothing is -1");
  expect_error<TypeError>([&] { box_loss(boxes.to(at::kDouble), boxes, {}); }, "pred is Double");
  expect_error<ValueError>([&] { box_iou(boxes, here(at::ones({4, 4}))); }, "[box_iou] pred has 3 rows");
}

TEST(BoxLoss, OnlyThePredictionGetsAGradient) {
  const auto pred = at::rand({3, 4}) + 0.5, target = at::rand({3, 4}) + 0.5;
  const auto weight = at::rand({3}).requires_grad_();
  EXPECT_FALSE(box_loss(pred, target, weight).requires_grad());
  const auto with_gradient = pred.clone().requires_grad_();
  box_loss(with_gradient, target, weight).backward();
  EXPECT_TRUE(with_gradient.grad().defined());
  EXPECT_FALSE(weight.grad().defined());
}

}  // namespace
}  // namespace instseg
