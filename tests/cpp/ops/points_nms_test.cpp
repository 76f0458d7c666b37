// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/points_nms.h"

#include <vector>

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::difference;
using test::expect_error;
using test::same;

struct Found {
  std::vector<int64_t> cells, labels;
  std::vector<float> scores;
};

// Cell by cell, on probabilities [C, H, W].
Found plain_points_nms(const at::Tensor& p, double threshold) {
  const auto at = p.accessor<float, 3>();
  Found found;
  for (int64_t y = 0; y < p.size(1); ++y) {
    for (int64_t x = 0; x < p.size(2); ++x) {
      for (int64_t c = 0; c < p.size(0); ++c) {
        const float value = at[c][y][x];
        bool stays = static_cast<double>(value) > threshold;
        if (y > 0) stays = stays && value >= at[c][y - 1][x];
        if (x > 0) stays = stays && value >= at[c][y][x - 1];
        if (x > 0 && y > 0) stays = stays && value >= at[c][y - 1][x - 1];
        if (!stays) continue;
        found.cells.push_back(y * p.size(2) + x);
        found.labels.push_back(c);
        found.scores.push_back(value);
      }
    }
  }
  return found;
}

void expect_found(const GridCandidates& ours, const Found& expected) {
  EXPECT_TRUE(same(ours.cells, at::tensor(expected.cells, at::kLong)));
  EXPECT_TRUE(same(ours.labels, at::tensor(expected.labels, at::kLong)));
  EXPECT_LE(difference(ours.scores, at::tensor(expected.scores, at::kFloat)), 1e-6);
}

class PointsNmsTest : public test::DeviceTest {};
INSTSEG_ON_DEVICES(PointsNmsTest);

TEST_P(PointsNmsTest, MatchesPlainTwin) {
  for (const auto& [classes, height, width] :
       std::vector<std::tuple<int64_t, int64_t, int64_t>>{{1, 1, 1}, {3, 1, 70}, {80, 12, 12}, {5, 40, 33}}) {
    // Quarters: ties are many, and exact.
    const at::Tensor logits = (at::randn({classes, height, width}) * 8).round() / 4;
    for (const double threshold : {0.0, 0.1, 0.7, 1.0}) {
      expect_found(points_nms(here(logits), threshold), plain_points_nms(logits.sigmoid(), threshold));
    }
  }
}

TEST_P(PointsNmsTest, ReadsAnyLayout) {
  const at::Tensor batch = at::randn({2, 7, 10, 11}).contiguous(at::MemoryFormat::ChannelsLast);
  const std::vector<at::Tensor> views{batch[1], batch[0].slice(1, 0, 10, 2), batch[1].transpose(1, 2),
                                      batch[1].narrow(0, 2, 3), at::randn({1, 10, 11}).expand({4, 10, 11})};
  for (const at::Tensor& view : views) {
    expect_found(points_nms(here(view), 0.3), plain_points_nms(view.sigmoid().contiguous(), 0.3));
  }
}

TEST_P(PointsNmsTest, PlateausOfEqualProbabilityStay) {
  // From 17 on the float32 sigmoid is 1: the logits fall, the probabilities do not. The second 3 has an equal
  // to its left, the first a larger one.
  const at::Tensor logits = at::tensor({60.f, 40.f, 20.f, 3.f, 3.f, 2.f}).view({1, 1, 6});
  const float last = at::tensor(3.f).sigmoid().item<float>();
  expect_found(points_nms(here(logits), 0.5), {{0, 1, 2, 4}, {0, 0, 0, 0}, {1.f, 1.f, 1.f, last}});
  EXPECT_EQ(points_nms(here(at::zeros({2, 3, 4})), 0.25).cells.size(0), 24);
}

TEST_P(PointsNmsTest, LooksUpAndLeftOnly) {
  for (int64_t dy = -1; dy <= 1; ++dy) {
    for (int64_t dx = -1; dx <= 1; ++dx) {
      at::Tensor logits = at::full({1, 3, 3}, -9.0f);
      logits[0][1][1] = 1.0f;
      logits[0][1 + dy][1 + dx] = 2.0f;  // the better one
      const bool seen = dy <= 0 && dx <= 0 && (dy != 0 || dx != 0), itself = dy == 0 && dx == 0;
      EXPECT_EQ(points_nms(here(logits), 0.5).cells.size(0), seen || itself ? 1 : 2) << dy << " " << dx;
    }
  }
}

TEST_P(PointsNmsTest, ThresholdIsExclusive) {
  const at::Tensor logits = here(at::zeros({1, 1, 1}));
  EXPECT_EQ(points_nms(logits, 0.5).cells.size(0), 0);
  EXPECT_EQ(points_nms(logits, 0.49999).cells.size(0), 1);
}

TEST_P(PointsNmsTest, NanIsNoCandidate) {
  at::Tensor logits = at::full({1, 3, 3}, 1.0f);
  logits[0][1][1] = NAN;
  const GridCandidates found = points_nms(here(logits), 0.5);
  // Cells 5, 7 and 8 look at it.
  EXPECT_TRUE(same(found.cells, at::tensor({int64_t{0}, int64_t{1}, int64_t{2}, int64_t{3}, int64_t{6}})));
  EXPECT_EQ(points_nms(here(at::full({2, 3, 3}, NAN)), 0.0).cells.size(0), 0);
  EXPECT_EQ(points_nms(here(at::full({2, 3, 3}, -INFINITY)), 0.0).cells.size(0), 0);
  EXPECT_EQ(points_nms(here(at::full({2, 3, 3}, INFINITY)), 0.99).cells.size(0), 18);
}

TEST_P(PointsNmsTest, EmptyInputAndNothingFound) {
  for (const at::Tensor& logits : {at::zeros({0, 4, 4}), at::zeros({3, 0, 0}), at::full({3, 4, 4}, -5.0f)}) {
    const GridCandidates found = points_nms(here(logits), 0.1);
    EXPECT_EQ(found.cells.sizes(), at::IntArrayRef({0}));
    EXPECT_EQ(found.labels.sizes(), at::IntArrayRef({0}));
    EXPECT_EQ(found.scores.sizes(), at::IntArrayRef({0}));
    EXPECT_EQ(found.cells.scalar_type(), at::kLong);
    EXPECT_EQ(found.labels.scalar_type(), at::kLong);
    EXPECT_EQ(found.scores.scalar_type(), at::kFloat);
  }
}

TEST_P(PointsNmsTest, RejectsBadInput) {
  const at::Tensor logits = here(at::zeros({2, 4, 4}));
  expect_error<ValueError>([&] { points_nms(logits[0], 0.1); }, "[points_nms] logits have shape [4, 4]");
  expect_error<TypeError>([&] { points_nms(logits.to(at::kDouble), 0.1); }, "logits is Double");
  expect_error<ValueError>([&] { points_nms(logits, -0.1); }, "threshold is -0.1");
  expect_error<ValueError>([&] { points_nms(logits, NAN); }, "threshold is nan");
  expect_error<ValueError>([&] { points_nms(at::Tensor(), 0.1); }, "logits is missing");
}

}  // namespace
}  // namespace instseg
