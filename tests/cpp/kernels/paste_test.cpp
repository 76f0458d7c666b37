// SPDX-License-Identifier: Apache-2.0
#include "kernels/paste.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/outline.h"
#include "kernels/runs.h"

namespace instseg::kernels {
namespace {

// A random map with random taps, and its pixels computed one by one.
class Case {
 public:
  explicit Case(unsigned seed) : random_(seed) {
    height_ = draw(1, 12);
    width_ = draw(1, 12);
    rows = draw(1, 40);
    columns = draw(1, 40);
    limit_ = draw(0, 3) ? 0.5f : draw(0, 1) ? -0.1f : 0.97f;
    fill(draw(0, 5));
    box_ = draw(0, 1) == 1;
    if (box_) {
      x_ = box(width_, columns, taps_x_);
      y_ = box(height_, rows, taps_y_);
    } else {
      per_tap_ = draw(2, 3);
      x_ = image(width_, columns, taps_x_);
      y_ = image(height_, rows, taps_y_);
    }
  }

  std::vector<uint32_t> runs(PasteScratch& scratch) const {
    std::vector<uint32_t> counts = {1, 2, 3};  // of an earlier call
    paste_runs_cpu({map_.data(), height_, width_, box_}, x_, y_, per_tap_, limit_, scratch, counts);
    return counts;
  }

  std::vector<uint8_t> pixels() const {
    std::vector<uint8_t> bitmap(rows * columns);
    for (int64_t y = y_.begin; y < y_.end; ++y) {
      for (int64_t x = x_.begin; x < x_.end; ++x) {
        bitmap[y * columns + x] = value(x_.taps[x - x_.begin], y_.taps[y - y_.begin]) > limit_;
      }
    }
    return bitmap;
  }

  int64_t rows, columns;

 private:
  int draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  float unit() { return std::uniform_real_distribution<float>(0, 1)(random_); }

  void fill(int kind) {
    map_.resize(height_ * width_);
    for (float& v : map_) {
      v = unit();
      if (kind == 1) v = v < 0.2f ? 1.0f : 0.0f;
      if (kind == 2) v = 0.5f;
      if (kind == 3 && v < 0.1f) v = NAN;
      if (kind == 4 && v < 0.1f) v = v < 0.05f ? INFINITY : -INFINITY;
      if (kind == 5) v = v < 0.05f ? 0.9f : 0.0f;
    }
  }

  PasteAxis box(int64_t cells, int64_t size, std::vector<PasteTap>& taps) {
    float low = unit() * 60 - 10, high = unit() * 60 - 10;
    if (draw(0, 20) == 0) low = NAN;
    if (draw(0, 20) == 0) high = 1e20f;
    const BoxAxis axis = box_axis(low, high, cells, size);
    for (int64_t i = axis.begin; i < axis.end; ++i) taps.push_back(box_tap(axis, i));
    return {taps.data(), axis.begin, axis.end, size};
  }

  PasteAxis image(int64_t cells, int64_t size, std::vector<PasteTap>& taps) {
    std::vector<int32_t> starts(size);
    for (int32_t& start : starts) start = draw(0, static_cast<int>(cells) - 1);
    std::sort(starts.begin(), starts.end());
    for (const int32_t start : starts) {
      const float second = unit(), third = per_tap_ == 3 ? unit() * (1 - second) : 0;
      taps.push_back({start, start + 1 < cells ? second : 0, start + 2 < cells ? third : 0});
    }
    return {taps.data(), 0, size, size};
  }

  float cell(int64_t y, int64_t x) const {
    if (!box_) return map_[std::min(y, height_ - 1) * width_ + std::min(x, width_ - 1)];
    return y < 1 || y > height_ || x < 1 || x > width_ ? 0 : map_[(y - 1) * width_ + x - 1];
  }

  float value(const PasteTap& x, const PasteTap& y) const {
    float line[3];
    for (int i = 0; i < per_tap_; ++i) {
      const int64_t row = y.start + i;
      line[i] = per_tap_ == 2 ? paste_mix(cell(row, x.start), cell(row, x.start + 1), x.second)
                              : paste_mix(cell(row, x.start), cell(row, x.start + 1), cell(row, x.start + 2),
                                          x.second, x.third);
    }
    return per_tap_ == 2 ? paste_mix(line[0], line[1], y.second)
                         : paste_mix(line[0], line[1], line[2], y.second, y.third);
  }

  std::mt19937 random_;
  int64_t height_, width_;
  std::vector<float> map_;
  std::vector<PasteTap> taps_x_, taps_y_;
  PasteAxis x_ = {}, y_ = {};
  int per_tap_ = 2;
  float limit_;
  bool box_;
};

TEST(Paste, RunsAreThePixelsComputedOneByOne) {
  PasteScratch scratch;
  int64_t inside = 0, all = 0;
  for (unsigned seed = 0; seed < 4000; ++seed) {
    const Case random(seed);
    const std::vector<uint32_t> counts = random.runs(scratch);
    const std::vector<uint8_t> expected = random.pixels();
    std::vector<uint8_t> bitmap(expected.size(), 9);
    fill_runs(counts, random.rows, {0, 0, random.columns, random.rows}, bitmap.data());
    ASSERT_EQ(bitmap, expected) << "seed " << seed;
    EXPECT_EQ(std::count(counts.begin() + 1, counts.end(), 0u), 0) << "runs of no length";
    inside += std::count(expected.begin(), expected.end(), 1);
    all += static_cast<int64_t>(expected.size());
  }
  EXPECT_GT(inside, all / 10);
  EXPECT_LT(inside, all / 2);
}

TEST(Runs, TightBoxAndCrop) {
  const std::vector<uint32_t> counts = {7, 2, 3, 1,
                                        7};  // of 5x4: rows 2 and 3 of column 1, row 2 of column 2
  const PixelBox box = tight_box(counts, 5);
  EXPECT_EQ((std::vector<int64_t>{box.x, box.y, box.width, box.height}), (std::vector<int64_t>{1, 2, 2, 2}));
  std::vector<uint8_t> crop(4);
  fill_runs(counts, 5, box, crop.data());
  EXPECT_EQ(crop, (std::vector<uint8_t>{1, 1, 1, 0}));
  const PixelBox tall = tight_box({4, 2, 14}, 5);  // from one column into the next
  EXPECT_EQ((std::vector<int64_t>{tall.x, tall.y, tall.width, tall.height}),
            (std::vector<int64_t>{0, 0, 2, 5}));
  EXPECT_EQ(tight_box({20}, 5).width, 0);
}

TEST(Outlines, AreClockwiseAndWithoutHoles) {
  const uint8_t ring[] = {1, 1, 1, 1, 0, 1, 1, 1, 1};
  EXPECT_EQ(outlines(ring, 3, 3), (std::vector<Outline>{{0, 0, 3, 0, 3, 3, 0, 3}}));
  const uint8_t diagonal[] = {0, 2, 3, 0};  // anything but 0 is inside; corners do not connect
  EXPECT_EQ(outlines(diagonal, 2, 2),
            (std::vector<Outline>{{1, 0, 2, 0, 2, 1, 1, 1}, {0, 1, 1, 1, 1, 2, 0, 2}}));
  EXPECT_TRUE(outlines(nullptr, 0, 0).empty());
}

}  // namespace
}  // namespace instseg::kernels
