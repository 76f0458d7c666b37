// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/nms.h"

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::expect_error;
using test::same;

// Plain greedy NMS of one class in float32, on the CPU.
at::Tensor plain_nms(const at::Tensor& boxes, const at::Tensor& scores, double threshold) {
  const at::Tensor order = scores.argsort(/*stable=*/true, 0, /*descending=*/true);
  const at::Tensor b = boxes.index_select(0, order);
  const at::Tensor area = (b.select(1, 2) - b.select(1, 0)) * (b.select(1, 3) - b.select(1, 1));
  at::Tensor alive = at::ones({b.size(0)}, at::kBool);
  for (int64_t i = 0; i < b.size(0); ++i) {
    if (!alive[i].item<bool>()) continue;
    const at::Tensor low = at::maximum(b[i].narrow(0, 0, 2), b.narrow(1, 0, 2));
    const at::Tensor high = at::minimum(b[i].narrow(0, 2, 2), b.narrow(1, 2, 2));
    const at::Tensor inter = (high - low).clamp_min(0).prod(1);
    const at::Tensor iou = inter / (area[i] + area - inter);
    at::Tensor suppressed = iou.to(at::kDouble) > threshold;  // false for NaN
    suppressed.narrow(0, 0, i + 1).fill_(false);              // only later boxes
    alive.logical_and_(suppressed.logical_not());
  }
  return order.masked_select(alive);
}

// Class by class, then by score: the definition.
at::Tensor plain_class_nms(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& labels,
                           double threshold) {
  at::Tensor keep = at::zeros({scores.size(0)}, at::kBool);
  for (int64_t label = labels.min().item<int64_t>(); label <= labels.max().item<int64_t>(); ++label) {
    const at::Tensor members = (labels == label).nonzero().select(1, 0);
    if (members.numel() == 0) continue;
    const at::Tensor kept =
        plain_nms(boxes.index_select(0, members), scores.index_select(0, members), threshold);
    keep.index_fill_(0, members.index_select(0, kept), true);
  }
  const at::Tensor order = scores.argsort(/*stable=*/true, 0, /*descending=*/true);
  return order.masked_select(keep.index_select(0, order));
}

at::Tensor random_boxes(int64_t n, double extent, double side) {
  const at::Tensor corner = at::rand({n, 2}) * extent, size = at::rand({n, 2}) * side + 1;
  return at::cat({corner, corner + size}, 1);
}

class NmsTest : public test::DeviceTest {};
INSTSEG_ON_DEVICES(NmsTest);

TEST_P(NmsTest, MatchesPlainTwin) {
  for (const int64_t n : {1, 63, 64, 65, 400, 1500}) {
    const at::Tensor boxes = random_boxes(n, 200, 60);
    const at::Tensor scores = (at::rand({n}) * 50).floor() / 50;  // many ties
    const at::Tensor labels = at::randint(0, 3, {n}, at::kLong);
    for (const double threshold : {0.0, 0.3, 0.5, 0.6, 1.0}) {
      const at::Tensor keep = nms(here(boxes), here(scores), here(labels), threshold);
      EXPECT_TRUE(same(keep, plain_class_nms(boxes, scores, labels, threshold))) << n << " at " << threshold;
    }
  }
}

TEST_P(NmsTest, ThresholdIsExclusive) {
  // IoU exactly 0.5, representable: 2 x 1 inside 4 x 1.
  const at::Tensor boxes = at::tensor({0.f, 0.f, 4.f, 1.f, 0.f, 0.f, 2.f, 1.f}).view({2, 4});
  const at::Tensor scores = at::tensor({0.9f, 0.8f}), labels = at::zeros({2}, at::kLong);
  EXPECT_EQ(nms(here(boxes), here(scores), here(labels), 0.5).size(0), 2);
  EXPECT_EQ(nms(here(boxes), here(scores), here(labels), 0.4999).size(0), 1);
}

TEST_P(NmsTest, ThresholdIsComparedInDouble) {
  // IoU is float(0.6) = 0.60000002, above the double 0.6.
  const at::Tensor boxes = at::tensor({0.f, 0.f, 10.f, 1.f, 0.f, 0.f, 6.f, 1.f}).view({2, 4});
  const at::Tensor scores = at::tensor({0.9f, 0.8f}), labels = at::zeros({2}, at::kLong);
  EXPECT_EQ(nms(here(boxes), here(scores), here(labels), 0.6).size(0), 1);
  EXPECT_EQ(nms(here(boxes), here(scores), here(labels), static_cast<double>(0.6f)).size(0), 2);
}

TEST_P(NmsTest, ClassesDoNotSuppressEachOther) {
  const at::Tensor boxes = at::tensor({0.f, 0.f, 9.f, 9.f}).repeat({4, 1});
  const at::Tensor scores = at::tensor({0.1f, 0.9f, 0.5f, 0.9f});
  const at::Tensor labels = at::tensor({int64_t{-3}, int64_t{7}, int64_t{7}, int64_t{1} << 40});
  const at::Tensor expected = at::tensor({int64_t{1}, int64_t{3}, int64_t{0}});
  EXPECT_TRUE(same(nms(here(boxes), here(scores), here(labels), 0.5), expected));
}

TEST_P(NmsTest, ClassOffsetIsOneNmsOverShiftedBoxes) {
  const int64_t n = 300;
  const at::Tensor boxes = random_boxes(n, 100, 60) - 40;  // negative coordinates, where classes meet
  const at::Tensor scores = at::rand({n}), labels = at::randint(0, 5, {n}, at::kLong);
  const at::Tensor shifted = boxes + (labels.to(at::kFloat) * (boxes.max() + 1)).unsqueeze(1);
  const at::Tensor keep = nms(here(boxes), here(scores), here(labels), 0.4, true);
  EXPECT_TRUE(same(keep, plain_nms(shifted, scores, 0.4)));
}

TEST_P(NmsTest, DegenerateBoxesAreKept) {
  const at::Tensor boxes = at::zeros({3, 4}), scores = at::rand({3}), labels = at::zeros({3}, at::kLong);
  EXPECT_EQ(nms(here(boxes), here(scores), here(labels), 0.5).size(0), 3);  // IoU is 0/0
}

TEST_P(NmsTest, AcceptsViewsAndEmptyInput) {
  const at::Tensor wide = random_boxes(50, 100, 40), scores = at::rand({50, 2});
  const at::Tensor labels = at::randint(0, 2, {50, 2}, at::kLong);
  const at::Tensor columns = wide.t().contiguous().t();
  const at::Tensor keep = nms(here(columns), here(scores).select(1, 0), here(labels).select(1, 1), 0.5);
  EXPECT_TRUE(same(keep, plain_class_nms(wide, scores.select(1, 0), labels.select(1, 1), 0.5)));
  const at::Tensor none =
      nms(here(wide.narrow(0, 0, 0)), here(at::empty({0})), here(at::empty({0}, at::kLong)), 0.5);
  EXPECT_EQ(none.sizes(), at::IntArrayRef({0}));
  EXPECT_EQ(none.scalar_type(), at::kLong);
}

TEST_P(NmsTest, RejectsBadInput) {
  const at::Tensor boxes = here(at::zeros({3, 4})), scores = here(at::zeros({3}));
  const at::Tensor labels = here(at::zeros({3}, at::kLong));
  expect_error<ValueError>([&] { nms(here(at::zeros({3, 5})), scores, labels, 0.5); },
                           "boxes has shape [3, 5]");
  expect_error<ValueError>([&] { nms(boxes, here(at::zeros({2})), labels, 0.5); }, "scores has shape [2]");
  expect_error<ValueError>([&] { nms(boxes, scores, here(at::zeros({3, 1}, at::kLong)), 0.5); },
                           "labels has shape");
  expect_error<ValueError>([&] { nms(boxes, scores, labels, 1.5); }, "iou_threshold is 1.5");
  expect_error<ValueError>([&] { nms(boxes, scores, labels, NAN); }, "iou_threshold is nan");
  expect_error<ValueError>([&] { nms(at::Tensor(), scores, labels, 0.5); }, "boxes is missing");
  expect_error<TypeError>([&] { nms(boxes.to(at::kDouble), scores, labels, 0.5); }, "boxes is Double");
  expect_error<TypeError>([&] { nms(boxes, scores, labels.to(at::kInt), 0.5); }, "labels is Int");
}

TEST(NmsCpuTest, NanScoresComeLast) {
  const at::Tensor boxes = at::arange(12, at::kFloat).view({3, 4});
  const at::Tensor scores = at::tensor({NAN, 0.25f, 0.5f});
  const at::Tensor keep = nms(boxes, scores, at::arange(3, at::kLong), 0.5);
  EXPECT_TRUE(same(keep, at::tensor({int64_t{2}, int64_t{1}, int64_t{0}})));
}

}  // namespace
}  // namespace instseg
