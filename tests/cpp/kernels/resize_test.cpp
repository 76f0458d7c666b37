// SPDX-License-Identifier: Apache-2.0
#include "kernels/resize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace instseg::kernels {
namespace {

std::vector<uint8_t> random_image(int64_t height, int64_t width, std::mt19937& random) {
  std::vector<uint8_t> pixels(height * width * 3);
  for (uint8_t& value : pixels) value = static_cast<uint8_t>(random() & 255);
  return pixels;
}

// One axis of Pillow's filter straight from its definition, in double until the weights are rounded.
std::vector<uint8_t> pillow_pass(const std::vector<uint8_t>& in, int64_t lines, int64_t n_in, int64_t n_out,
                                 int64_t line_step, int64_t step_in, int64_t line_step_out,
                                 int64_t step_out) {
  std::vector<uint8_t> out(lines / 3 * n_out * 3);
  const double scale = double(n_in) / double(n_out), support = std::max(scale, 1.0);
  for (int64_t o = 0; o < n_out; ++o) {
    const double center = (double(o) + 0.5) * scale;
    const auto first = std::max<int64_t>(0, int64_t(center - support + 0.5));
    const auto last = std::min(n_in, int64_t(center + support + 0.5));
    std::vector<double> weights;
    double sum = 0;
    for (int64_t i = first; i < last; ++i) {
      weights.push_back(std::max(0.0, 1 - std::abs((double(i) - center + 0.5) / support)));
      sum += weights.back();
    }
    for (int64_t line = 0; line < lines; ++line) {
      const int64_t base = line / 3 * line_step + line % 3, base_out = line / 3 * line_step_out + line % 3;
      int64_t total = 1 << 21;
      for (int64_t i = first; i < last; ++i) {
        total += std::llround(weights[i - first] / sum * (1 << 22)) * in[base + i * step_in];
      }
      out[base_out + o * step_out] = uint8_t(std::clamp<int64_t>(total >> 22, 0, 255));
    }
  }
  return out;
}

std::vector<uint8_t> pillow_twin(std::vector<uint8_t> image, const ResizeShape& s) {
  if (s.in_width != s.out_width) {
    image =
        pillow_pass(image, 3 * s.in_height, s.in_width, s.out_width, 3 * s.in_width, 3, 3 * s.out_width, 3);
  }
  if (s.in_height != s.out_height) {
    image = pillow_pass(image, 3 * s.out_width, s.in_height, s.out_height, 3, 3 * s.out_width, 3,
                        3 * s.out_width);
  }
  return image;
}

std::vector<ResizeShape> shapes() {
  std::vector<ResizeShape> result = {{1, 1, 1, 1, 3},   {1, 1, 5, 7, 3},      {9, 7, 1, 1, 3},
                                     {5, 3, 5, 3, 3},   {6, 8, 6, 3, 3},      {6, 8, 15, 8, 3},
                                     {2, 400, 3, 9, 3}, {64, 48, 400, 300, 3}};
  std::mt19937 random(7);
  const auto side = [&] { return static_cast<int64_t>(1 + random() % 90); };
  for (int i = 0; i < 60; ++i) result.push_back({side(), side(), side(), side(), 3});
  return result;
}

std::string text(const ResizeShape& s) {
  return std::to_string(s.in_height) + "x" + std::to_string(s.in_width) + " to " +
         std::to_string(s.out_height) + "x" + std::to_string(s.out_width);
}

TEST(ResizePillow, EqualsDefinition) {
  std::mt19937 random(1);
  for (const ResizeShape& s : shapes()) {
    const auto image = random_image(s.in_height, s.in_width, random);
    std::vector<uint8_t> out(s.out_height * s.out_width * 3);
    resize_pillow(image.data(), s, out.data());
    EXPECT_EQ(out, pillow_twin(image, s)) << text(s);
  }
}

TEST(ResizePillow, WindowsStayInside) {
  for (int64_t in = 1; in <= 40; ++in) {
    for (int64_t out = 1; out <= 60; ++out) {
      const FilterAxis axis = pillow_axis(in, out);
      for (int64_t o = 0; o < out; ++o) {
        ASSERT_GE(axis.start[o], 0);
        ASSERT_LE(axis.start[o] + axis.taps, in) << in << " to " << out;
        int64_t sum = 0;
        for (int64_t t = 0; t < axis.taps; ++t) sum += axis.weights[o * axis.taps + t];
        ASSERT_NEAR(double(sum), 1 << 22, double(axis.taps));
      }
    }
  }
}

// Extremes must not leave 0..255 through rounded weights.
TEST(ResizePillow, KeepsConstantImages) {
  for (const ResizeShape& s : shapes()) {
    for (const int value : {0, 1, 254, 255}) {
      const std::vector<uint8_t> image(s.in_height * s.in_width * 3, uint8_t(value));
      std::vector<uint8_t> out(s.out_height * s.out_width * 3);
      resize_pillow(image.data(), s, out.data());
      EXPECT_TRUE(std::all_of(out.begin(), out.end(), [&](int v) { return v == value; }))
          << value << " " << text(s);
    }
  }
}

TEST(ResizeOpencv, EqualsDefinition) {
  std::mt19937 random(2);
  for (const ResizeShape& s : shapes()) {
    const auto image = random_image(s.in_height, s.in_width, random);
    std::vector<uint8_t> out(s.out_height * s.out_width * 3);
    resize_opencv(image.data(), s, out.data());
    const auto rows = opencv_axis(s.in_height, s.out_height), columns = opencv_axis(s.in_width, s.out_width);
    for (int64_t y = 0; y < s.out_height; ++y) {
      for (int64_t x = 0; x < s.out_width; ++x) {
        for (int64_t c = 0; c < 3; ++c) {
          const auto at = [&](int64_t row, int64_t column) {
            return image[(row * s.in_width + column) * 3 + c];
          };
          const auto &row = rows[y], &column = columns[x];
          const int top =
              column.weight0 * at(row.index0, column.index0) + column.weight1 * at(row.index0, column.index1);
          const int low =
              column.weight0 * at(row.index1, column.index0) + column.weight1 * at(row.index1, column.index1);
          const int value = ((row.weight0 * (top >> 4) >> 16) + (row.weight1 * (low >> 4) >> 16) + 2) >> 2;
          ASSERT_EQ(out[(y * s.out_width + x) * 3 + c], value) << text(s);
        }
      }
    }
  }
}

TEST(ResizeOpencv, WeightsOfAnAxis) {
  const auto taps = opencv_axis(4, 8);  // x = -0.25, 0.25, 0.75, ...
  EXPECT_EQ(taps[0].index0, 0);
  EXPECT_EQ(taps[0].weight0, 2048);
  EXPECT_EQ(taps[1].index0, 0);
  EXPECT_EQ(taps[1].index1, 1);
  EXPECT_EQ(taps[1].weight0, 1536);
  EXPECT_EQ(taps[1].weight1, 512);
  EXPECT_EQ(taps[7].index0, 3);
  EXPECT_EQ(taps[7].index1, 3);
}

TEST(ResizeFloat, InterpolatesLinearly) {
  // A ramp is reproduced exactly away from the clamped border.
  const int64_t in = 8, out = 20;
  std::vector<uint8_t> image(in * in * 3);
  for (int64_t y = 0; y < in; ++y) {
    for (int64_t x = 0; x < in; ++x) {
      for (int64_t c = 0; c < 3; ++c) image[(y * in + x) * 3 + c] = uint8_t(10 * x + 3 * y + 50 * c);
    }
  }
  std::vector<float> result(out * out * 3);
  resize_float(image.data(), {in, in, out, out, 3}, result.data());
  for (int64_t y = 0; y < out; ++y) {
    for (int64_t x = 0; x < out; ++x) {
      const double column = std::clamp((x + 0.5) * in / out - 0.5, 0.0, 7.0);
      const double row = std::clamp((y + 0.5) * in / out - 0.5, 0.0, 7.0);
      for (int64_t c = 0; c < 3; ++c) {
        ASSERT_NEAR(result[(y * out + x) * 3 + c], 10 * column + 3 * row + 50 * double(c), 1e-4);
      }
    }
  }
}

// Indices taken from Pillow 13 and OpenCV 5; the first two of each differ from the closed form by one
// somewhere.
TEST(ResizeNearest, IndicesOfTheLibraries) {
  EXPECT_EQ(pillow_nearest(14, 5), (std::vector<int32_t>{1, 4, 6, 9, 12}));
  EXPECT_EQ(pillow_nearest(28, 5), (std::vector<int32_t>{2, 8, 13, 19, 25}));
  EXPECT_EQ(pillow_nearest(5, 12), (std::vector<int32_t>{0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4}));
  EXPECT_EQ(opencv_nearest(26, 10), (std::vector<int32_t>{0, 2, 5, 7, 10, 12, 15, 18, 20, 23}));
  EXPECT_EQ(opencv_nearest(52, 10), (std::vector<int32_t>{0, 5, 10, 15, 20, 25, 31, 36, 41, 46}));
  EXPECT_EQ(opencv_nearest(5, 12), (std::vector<int32_t>{0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4}));
}

TEST(ResizeNearest, CopiesPixels) {
  std::mt19937 random(3);
  const auto image = random_image(7, 5, random);
  const std::vector<int32_t> rows = {6, 0, 3}, columns = {4, 4, 1, 0};
  std::vector<uint8_t> out(3 * 4 * 3);
  resize_nearest(image.data(), {7, 5, 3, 4, 3}, rows.data(), columns.data(), out.data());
  for (int64_t y = 0; y < 3; ++y) {
    for (int64_t x = 0; x < 4; ++x) {
      for (int64_t c = 0; c < 3; ++c)
        EXPECT_EQ(out[(y * 4 + x) * 3 + c], image[(rows[y] * 5 + columns[x]) * 3 + c]);
    }
  }
}

}  // namespace
}  // namespace instseg::kernels
