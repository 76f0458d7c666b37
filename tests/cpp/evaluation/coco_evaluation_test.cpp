// SPDX-License-Identifier: Apache-2.0
#include "instseg/coco_evaluation.h"

#include <ATen/Parallel.h>

#include <cmath>

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::expect_error;

CocoObjects objects(std::vector<CocoBox> boxes, std::vector<uint8_t> crowd = {}) {
  CocoObjects out;
  for (const CocoBox& box : boxes) {
    out.labels.push_back(0);
    out.areas.push_back(box[2] * box[3]);
  }
  out.crowd = crowd.empty() ? std::vector<uint8_t>(boxes.size(), 0) : std::move(crowd);
  out.boxes = std::move(boxes);
  return out;
}

CocoDetections detections(std::vector<CocoBox> boxes, std::vector<double> scores) {
  CocoDetections out;
  out.labels.assign(boxes.size(), 0);
  out.scores = std::move(scores);
  out.boxes = std::move(boxes);
  return out;
}

/** Precision at IoU threshold t and recall point r, of class 0, all areas, the first limit. */
double precision(const CocoCurves& curves, int64_t t, int64_t r) {
  return curves.precision[t][r][0][0][0].item<double>();
}

TEST(CocoEvaluation, ThresholdsAreThoseOfNumPy) {
  EXPECT_EQ(coco_iou_thresholds()[0], 0.5);
  EXPECT_EQ(coco_iou_thresholds()[9], 0.95);
  EXPECT_EQ(coco_recall_points()[100], 1.0);
  EXPECT_EQ(coco_recall_points()[29], 29 * 0.01);
}

TEST(CocoEvaluation, PrecisionByHand) {
  // Two objects; by score: right (IoU 1), wrong, right (IoU 0.6).
  CocoEvaluation evaluation(CocoKind::kBox, 1);
  evaluation.add(1, objects({{0, 0, 10, 10}, {50, 50, 10, 10}}),
                 detections({{50, 50, 10, 6}, {0, 0, 10, 10}, {90, 0, 10, 10}}, {0.3, 0.9, 0.6}));
  const CocoCurves curves = evaluation.compute({1, 100});
  EXPECT_EQ(precision(curves, 0, 50), 1.0 / (1.0 + 0x1p-52));  // limit 1: only the first counts
  EXPECT_EQ(precision(curves, 0, 51), 0.0);
  const at::Tensor all = curves.precision.select(4, 1).select(3, 0).select(2, 0);  // [T, R]
  EXPECT_EQ(all[0][50].item<double>(), 1.0 / (1.0 + 0x1p-52));
  EXPECT_DOUBLE_EQ(all[0][51].item<double>(), 2.0 / 3.0);
  EXPECT_DOUBLE_EQ(all[2][100].item<double>(), 2.0 / 3.0);  // IoU 0.6 passes threshold 0.6
  EXPECT_EQ(all[3][51].item<double>(), 0.0);                // but not 0.65
  const at::Tensor recall = curves.recall.select(3, 1).select(2, 0).select(1, 0);
  EXPECT_EQ(recall[0].item<double>(), 1.0);
  EXPECT_EQ(recall[3].item<double>(), 0.5);
  const at::Tensor scores = curves.scores.select(4, 1).select(3, 0).select(2, 0);
  EXPECT_EQ(scores[0][51].item<double>(), 0.3);
  // Both objects are small: nothing is known of medium and large ones.
  EXPECT_EQ(curves.recall[0][0][1][1].item<double>(), 1.0);
  EXPECT_EQ(curves.recall[0][0][2][1].item<double>(), -1.0);
  EXPECT_TRUE(at::equal(curves.objects, at::tensor({2, 2, 0, 0}, at::kLong).view({1, 4})));
}

TEST(CocoEvaluation, CrowdsSwallowDetectionsAndCountForNothing) {
  CocoEvaluation evaluation(CocoKind::kBox, 1);
  evaluation.add(1, objects({{40, 0, 60, 60}, {0, 0, 10, 10}}, {1, 0}),
                 detections({{50, 10, 10, 10}, {70, 10, 10, 10}, {0, 0, 10, 10}}, {0.9, 0.8, 0.5}));
  const CocoCurves curves = evaluation.compute({100});
  for (int64_t r = 0; r <= 100; ++r) EXPECT_DOUBLE_EQ(precision(curves, 9, r), 1.0);
  EXPECT_EQ(curves.objects[0][0].item<int64_t>(), 1);
}

TEST(CocoEvaluation, AnObjectIsMatchedOnce) {
  CocoEvaluation evaluation(CocoKind::kBox, 1);
  evaluation.add(1, objects({{0, 0, 10, 10}}), detections({{0, 0, 10, 9}, {0, 0, 10, 10}}, {0.9, 0.8}));
  const CocoCurves curves = evaluation.compute({100});
  EXPECT_DOUBLE_EQ(precision(curves, 0, 100), 1.0);  // the better box comes too late
  EXPECT_DOUBLE_EQ(precision(curves, 9, 100), 0.5);  // where the first does not match, it does
}

TEST(CocoEvaluation, MasksAreComparedOnRunLengths) {
  at::manual_seed(3);
  const ImageSize size{37, 53};
  const auto bitmaps = [&](int64_t n) {
    at::Tensor maps = at::zeros({n, size.height, size.width}, at::kBool);
    for (int64_t i = 0; i < n; ++i) {  // noise within a random window
      const int64_t x = i * 7 % 30, y = i * 5 % 20;
      maps[i].slice(0, y, y + 15).slice(1, x, x + 20).copy_(at::rand({15, 20}).lt(0.7));
    }
    return maps;
  };
  const at::Tensor found = bitmaps(9), truth = bitmaps(5);
  MaskTargets a(size), b(size);
  for (int64_t i = 0; i < 9; ++i) a.add(rle_encode(found[i]));
  for (int64_t i = 0; i < 5; ++i) b.add(rle_encode(truth[i]));
  const at::Tensor iou = coco_mask_iou(a, b, {0, 1, 0, 0, 0});
  const at::Tensor f = found.flatten(1).to(at::kDouble), t = truth.flatten(1).to(at::kDouble);
  const at::Tensor shared = f.matmul(t.t()), own = f.sum(1, true);
  at::Tensor whole = own + t.sum(1).unsqueeze(0) - shared;
  whole.select(1, 1).copy_(own.squeeze(1));
  EXPECT_TRUE(at::equal(iou, shared / whole));
  EXPECT_GT((iou > 0).sum().item<int64_t>(), 20);
  EXPECT_GT((iou == 0).sum().item<int64_t>(), 0);
  MaskTargets other({10, 10});
  expect_error<ValueError>([&] { coco_mask_iou(a, other, {}); }, "37x53 and of a 10x10 image");
}

TEST(CocoEvaluation, EmptyMasksMeetNothing) {
  const ImageSize size{4, 6};
  MaskTargets empty(size), full(size);
  empty.add(Rle{size, {24}});
  full.add(Rle{size, {0, 24}});
  EXPECT_EQ(coco_mask_iou(empty, full, {0}).item<double>(), 0);
  EXPECT_EQ(coco_mask_iou(full, full, {1}).item<double>(), 1);
  EXPECT_EQ(coco_mask_iou(empty, empty, {1}).item<double>(), 0);
}

/** Images of seeded noise around objects. */
void add_noise(CocoEvaluation& evaluation, int64_t image) {
  at::manual_seed(static_cast<uint64_t>(image));
  const at::Tensor place = at::rand({40, 2}, at::kDouble) * 300, jitter = at::randn({40, 4}, at::kDouble) * 3;
  const at::Tensor score = at::rand({40}, at::kDouble);
  CocoObjects truth;
  CocoDetections found;
  for (int64_t i = 0; i < 40; ++i) {
    const double x = place[i][0].item<double>(), y = place[i][1].item<double>();
    const CocoBox box{x, y, 12.0 + 3 * i, 20};
    truth.labels.push_back(i % 3);
    truth.areas.push_back(box[2] * box[3]);
    truth.crowd.push_back(i % 11 == 0);
    truth.boxes.push_back(box);
    found.labels.push_back(i % 3);
    found.scores.push_back(std::round(score[i].item<double>() * 20) / 20);
    CocoBox moved = box;
    for (int64_t k = 0; k < 4; ++k) moved[k] += jitter[i][k].item<double>();
    found.boxes.push_back(moved);
  }
  evaluation.add(image, truth, found);
}

void expect_same(const CocoCurves& a, const CocoCurves& b) {
  EXPECT_TRUE(at::equal(a.precision, b.precision));
  EXPECT_TRUE(at::equal(a.recall, b.recall));
  EXPECT_TRUE(at::equal(a.scores, b.scores));
  EXPECT_TRUE(at::equal(a.objects, b.objects));
}

TEST(CocoEvaluation, PartsAndThreadsDoNotMatter) {
  CocoEvaluation whole(CocoKind::kBox, 3), even(CocoKind::kBox, 3), odd(CocoKind::kBox, 3);
  for (int64_t i = 0; i < 6; ++i) add_noise(whole, i);
  const CocoCurves curves = whole.compute({10, 100});
  EXPECT_GT(curves.precision.max().item<double>(), 0.5);
  const int threads = at::get_num_threads();
  at::set_num_threads(4);
  for (const int64_t i : {5, 3, 1}) add_noise(odd, i);
  for (const int64_t i : {4, 0, 2}) add_noise(even, i);
  odd.merge(CocoEvaluation::from_state(even.state()));
  expect_same(odd.compute({10, 100}), curves);
  at::set_num_threads(threads);
  EXPECT_EQ(odd.image_ids(), (std::vector<int64_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(odd.state(), whole.state());
  expect_error<ValueError>([&] { odd.merge(even); }, "image 0 is in both parts");
  expect_error<ValueError>([&] { odd.merge(CocoEvaluation(CocoKind::kMask, 3)); }, "different settings");
}

TEST(CocoEvaluation, DamagedStatesAreRefused) {
  CocoEvaluation evaluation(CocoKind::kBox, 3);
  add_noise(evaluation, 1);
  const std::string state = evaluation.state();
  for (size_t size = 0; size < state.size(); size += 7)
    expect_error<ValueError>([&] { CocoEvaluation::from_state(state.substr(0, size)); }, "damaged");
  expect_error<ValueError>([&] { CocoEvaluation::from_state(state + "x"); }, "damaged");
  std::string other = state;
  other[0] ^= 1;
  expect_error<ValueError>([&] { CocoEvaluation::from_state(other); }, "damaged");
}

TEST(CocoEvaluation, RefusesWhatDoesNotFit) {
  CocoEvaluation evaluation(CocoKind::kBox, 1);
  const CocoObjects truth = objects({{0, 0, 10, 10}});
  const CocoDetections found = detections({{0, 0, 10, 10}}, {0.5});
  evaluation.add(1, truth, found);
  expect_error<ValueError>([&] { evaluation.add(1, truth, found); }, "image 1 was added before");
  CocoDetections bad = found;
  bad.labels[0] = 1;
  expect_error<ValueError>([&] { evaluation.add(2, truth, bad); }, "label 1, outside 0..0");
  bad = found;
  bad.scores[0] = NAN;
  expect_error<ValueError>([&] { evaluation.add(2, truth, bad); }, "score nan is not finite");
  bad = found;
  bad.boxes.clear();
  expect_error<ValueError>([&] { evaluation.add(2, truth, bad); }, "0 boxes of detections for 1 labels");
  CocoEvaluation masks(CocoKind::kMask, 1);
  expect_error<ValueError>([&] { masks.add(2, truth, found); }, "0 masks of objects for 1 labels");
  expect_error<ValueError>([&] { evaluation.compute({101}); }, "limit 101 is outside 1..100");
  expect_error<ValueError>([&] { evaluation.compute({}); }, "no limit");
  expect_error<ValueError>([] { CocoEvaluation(CocoKind::kBox, 0); }, "there must be a class");
  EXPECT_EQ(evaluation.image_ids(), std::vector<int64_t>{1});
}

}  // namespace
}  // namespace instseg
