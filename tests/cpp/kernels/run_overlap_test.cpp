// SPDX-License-Identifier: Apache-2.0
#include "kernels/run_overlap.h"

#include <gtest/gtest.h>

namespace instseg::kernels {
namespace {

void expect_box(const PixelBox& box, int64_t x, int64_t y, int64_t width, int64_t height) {
  EXPECT_EQ(box.x, x);
  EXPECT_EQ(box.y, y);
  EXPECT_EQ(box.width, width);
  EXPECT_EQ(box.height, height);
}

TEST(RunOverlap, BoxesOfRuns) {  // columns of 10 pixels
  expect_box(box_of_runs({}, 10), 0, 0, 0, 0);
  expect_box(box_of_runs({{12, 15}, {21, 23}, {34, 38}}, 10), 1, 1, 3, 7);
  expect_box(box_of_runs({{18, 20}}, 10), 1, 8, 1, 2);             // up to the end of its column
  expect_box(box_of_runs({{18, 21}, {35, 36}}, 10), 1, 0, 3, 10);  // beyond it
}

TEST(RunOverlap, BoxesThatTouchDoNotMeet) {
  EXPECT_TRUE(boxes_meet({0, 0, 5, 5}, {4, 4, 2, 2}));
  EXPECT_FALSE(boxes_meet({0, 0, 5, 5}, {5, 0, 2, 2}));
  EXPECT_FALSE(boxes_meet({0, 0, 5, 5}, {0, 5, 2, 2}));
  EXPECT_FALSE(boxes_meet({}, {0, 0, 5, 5}));
}

TEST(RunOverlap, SharedPixelsOfEveryPairOfSmallMasks) {
  // All masks of 9 pixels: bit i of the number is pixel i.
  const auto runs_of = [](int bits) {
    Runs runs;
    for (int64_t i = 0; i < 9; ++i) {
      if (!(bits >> i & 1)) continue;
      if (!runs.empty() && runs.back().end == i) {
        ++runs.back().end;
      } else {
        runs.push_back({i, i + 1});
      }
    }
    return runs;
  };
  for (int a = 0; a < 512; ++a) {
    const Runs left = runs_of(a);
    EXPECT_EQ(area_of_runs(left), __builtin_popcount(static_cast<unsigned>(a)));
    for (int b = 0; b < 512; ++b)
      ASSERT_EQ(shared_pixels(left, runs_of(b)), __builtin_popcount(static_cast<unsigned>(a & b)))
          << a << " " << b;
  }
}

}  // namespace
}  // namespace instseg::kernels
