// SPDX-License-Identifier: Apache-2.0
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "instseg/error.h"
#include "instseg/image.h"
#include "io/font.h"
#include "io/palette.h"

namespace instseg {
namespace {

struct Box {
  float x1, y1, x2, y2, score;
  int64_t label;
};

Instances instances(const std::vector<Box>& boxes) {
  const auto n = static_cast<int64_t>(boxes.size());
  Instances result{at::empty({n, 4}), at::empty({n}), at::empty({n}, at::kLong), {}};
  for (int64_t i = 0; i < n; ++i) {
    const float corners[] = {boxes[i].x1, boxes[i].y1, boxes[i].x2, boxes[i].y2};
    std::copy(corners, corners + 4, result.boxes.mutable_data_ptr<float>() + 4 * i);
    result.scores.mutable_data_ptr<float>()[i] = boxes[i].score;
    result.labels.mutable_data_ptr<int64_t>()[i] = boxes[i].label;
  }
  return result;
}

Color pixel(const at::Tensor& image, int64_t y, int64_t x) {
  const uint8_t* p = image.const_data_ptr<uint8_t>() + 3 * (y * image.size(1) + x);
  return {p[0], p[1], p[2]};
}

constexpr Color kBlack = {0, 0, 0};
const DrawOptions kBoxesOnly{0.3, false, 1};

TEST(DrawInstances, OutlinesExactlyTheTouchedPixels) {
  const at::Tensor image = at::zeros({12, 14, 3}, at::kByte);
  const at::Tensor drawn =
      draw_instances(image, instances({{2.5f, 3.f, 8.1f, 9.f, 0.9f, 4}}), {}, kBoxesOnly);
  for (int64_t y = 0; y < 12; ++y) {
    for (int64_t x = 0; x < 14; ++x) {
      const bool inside = x >= 2 && x <= 8 && y >= 3 && y <= 8;
      const bool frame = inside && (x == 2 || x == 8 || y == 3 || y == 8);
      EXPECT_EQ(pixel(drawn, y, x), frame ? label_color(4) : kBlack) << y << " " << x;
    }
  }
  EXPECT_TRUE(at::equal(image, at::zeros({12, 14, 3}, at::kByte))) << "the input is left alone";
}

TEST(DrawInstances, LineWidthGrowsInwards) {
  const at::Tensor image = at::zeros({20, 20, 3}, at::kByte);
  const auto one = instances({{4, 4, 14, 14, 0.9f, 0}});
  const at::Tensor drawn = draw_instances(image, one, {}, {0.3, false, 3});
  EXPECT_EQ(pixel(drawn, 6, 6), label_color(0));
  EXPECT_EQ(pixel(drawn, 7, 7), kBlack);
  EXPECT_EQ(pixel(drawn, 3, 3), kBlack);
  // Wider than the box: filled, and not a pixel more.
  const at::Tensor full = draw_instances(image, one, {}, {0.3, false, 50});
  EXPECT_EQ(full.ne(0).any(2).sum().item<int64_t>(), 100);
}

TEST(DrawInstances, SkipsLowScoresAndNonFiniteBoxes) {
  const at::Tensor image = at::zeros({20, 20, 3}, at::kByte);
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const auto hidden = instances(
      {{2, 2, 9, 9, 0.29f, 0}, {nan, 2, 9, 9, 0.9f, 0}, {2, 2, inf, 9, 0.9f, 0}, {2, 2, 9, 9, nan, 0}});
  EXPECT_TRUE(at::equal(draw_instances(image, hidden, {}), image));
  const auto at_threshold = instances({{2, 2, 9, 9, 0.3f, 0}});
  EXPECT_FALSE(at::equal(draw_instances(image, at_threshold, {}), image));
}

TEST(DrawInstances, BoxesOutsideTheImageAreClipped) {
  const at::Tensor image = at::zeros({20, 20, 3}, at::kByte);
  const auto far = instances({{-1e30f, -1e30f, 1e30f, 1e30f, 0.9f, 0}, {-50, -50, -40, -40, 0.8f, 1}});
  EXPECT_TRUE(at::equal(draw_instances(image, far, {}, kBoxesOnly), image));
  EXPECT_NO_THROW(draw_instances(image, far, {"a", "b"}));
  const at::Tensor partly = draw_instances(image, instances({{-5, 5, 10, 30, 0.9f, 2}}), {}, kBoxesOnly);
  EXPECT_EQ(pixel(partly, 5, 0), label_color(2));
  EXPECT_EQ(pixel(partly, 19, 9), label_color(2));
  EXPECT_EQ(pixel(partly, 10, 0), kBlack);
}

TEST(DrawInstances, BestScoreLiesOnTop) {
  const at::Tensor image = at::zeros({20, 20, 3}, at::kByte);
  const auto two = instances({{4, 4, 14, 14, 0.9f, 1}, {4, 4, 14, 14, 0.5f, 2}});
  EXPECT_EQ(pixel(draw_instances(image, two, {}, kBoxesOnly), 4, 4), label_color(1));
}

// The text itself: its pixels are those of the font on the colour of the label.
TEST(DrawInstances, WritesNameAndScore) {
  const at::Tensor image = at::zeros({60, 120, 3}, at::kByte);
  const at::Tensor drawn = draw_instances(image, instances({{10, 30, 80, 50, 0.874f, 0}}), {"n\xc3\xb6x"});
  const std::string text = "n?x 0.87";
  const int64_t left = 10 + 1, top = 30 - (kGlyphHeight + 1) + 1;
  for (size_t i = 0; i < text.size(); ++i) {
    for (int64_t row = 0; row < kGlyphHeight; ++row) {
      for (int64_t column = 0; column < kGlyphWidth; ++column) {
        const bool on = kFont[text[i] - kFirstGlyph][row] >> (kGlyphWidth - 1 - column) & 1;
        const int64_t x = left + static_cast<int64_t>(i) * (kGlyphWidth + 1) + column;
        EXPECT_EQ(pixel(drawn, top + row, x), on ? text_color(label_color(0)) : label_color(0));
      }
    }
  }
}

TEST(DrawInstances, CaptionStaysInTheImage) {
  const at::Tensor image = at::zeros({40, 100, 3}, at::kByte);
  const at::Tensor drawn = draw_instances(image, instances({{90, 0, 99, 30, 1.f, 7}}), {});
  // "7 1.00" takes 37 px and does not fit above: it lies inside the box's top, moved left.
  EXPECT_EQ(pixel(drawn, 0, 100 - 37), label_color(7));
  EXPECT_EQ(pixel(drawn, 0, 100 - 38), kBlack);
}

TEST(DrawInstances, IsDeterministicAndColoursDependOnTheLabelAlone) {
  const at::Tensor image = at::zeros({50, 50, 3}, at::kByte);
  const auto some = instances({{4, 20, 30, 40, 0.9f, 3}, {8, 25, 44, 48, 0.7f, 3}});
  EXPECT_TRUE(at::equal(draw_instances(image, some, {}), draw_instances(image, some, {})));
  EXPECT_EQ(pixel(draw_instances(image, some, {}, kBoxesOnly), 47, 20), label_color(3));
}

// Instances whose masks are rectangles (the boxes' pixels), given by maps of the image's size.
Instances with_masks(const std::vector<Box>& boxes, int64_t height, int64_t width) {
  Instances result = instances(boxes);
  at::Tensor maps = at::zeros({result.size(), height, width});
  for (size_t i = 0; i < boxes.size(); ++i) {
    const auto x1 = static_cast<int64_t>(boxes[i].x1), y1 = static_cast<int64_t>(boxes[i].y1);
    maps[static_cast<int64_t>(i)]
        .narrow(0, y1, static_cast<int64_t>(boxes[i].y2) - y1)
        .narrow(1, x1, static_cast<int64_t>(boxes[i].x2) - x1)
        .fill_(1);
  }
  const ImageSize size{height, width};
  result.image_size = size;
  result.masks = {.probabilities = maps, .stride = 1, .network_size = size, .image_size = size};
  return result;
}

Color half(const Color& color, int below) {
  Color result;
  for (size_t c = 0; c < 3; ++c) result[c] = static_cast<uint8_t>((color[c] + below + 1) / 2);
  return result;
}

TEST(DrawInstances, MasksAreTintedInsideAContour) {
  const at::Tensor image = at::full({16, 20, 3}, 100, at::kByte);
  const DrawOptions options{.labels = false, .line_width = 2, .boxes = false};
  const at::Tensor drawn = draw_instances(image, with_masks({{4, 3, 12, 11, 0.9f, 5}}, 16, 20), {}, options);
  for (int64_t y = 0; y < 16; ++y) {
    for (int64_t x = 0; x < 20; ++x) {
      const bool inside = x >= 4 && x < 12 && y >= 3 && y < 11, inner = x > 4 && x < 11 && y > 3 && y < 10;
      const Color expected = inner    ? half(label_color(0), 100)
                             : inside ? label_color(0)
                                      : Color{100, 100, 100};
      EXPECT_EQ(pixel(drawn, y, x), expected) << y << " " << x;
    }
  }
}

TEST(DrawInstances, InstancesOfAClassDifferWhereMasksAreDrawn) {
  const at::Tensor image = at::zeros({40, 40, 3}, at::kByte);
  const auto found =
      with_masks({{2, 2, 12, 12, 0.9f, 7}, {20, 2, 34, 12, 0.8f, 7}, {6, 6, 30, 30, 0.1f, 7}}, 40, 40);
  const at::Tensor drawn = draw_instances(image, found, {}, kBoxesOnly);
  EXPECT_EQ(pixel(drawn, 2, 2), label_color(0));
  EXPECT_EQ(pixel(drawn, 2, 20), label_color(1));
  EXPECT_EQ(pixel(drawn, 6, 24), half(label_color(1), 0)) << "0.1 is not drawn";
  EXPECT_TRUE(at::equal(draw_instances(image, found.above(0.5), {}, kBoxesOnly), drawn)) << "stable colours";
  // Without masks it is the picture of the boxes.
  Instances boxes = found;
  boxes.masks = {};
  const DrawOptions no_masks{.labels = false, .line_width = 1, .masks = false};
  EXPECT_TRUE(
      at::equal(draw_instances(image, found, {}, no_masks), draw_instances(image, boxes, {}, kBoxesOnly)));
}

TEST(DrawInstances, BoxesAndCaptionsLieAboveMasks) {
  const at::Tensor image = at::zeros({60, 60, 3}, at::kByte);
  auto two = with_masks({{10, 20, 50, 50, 0.9f, 0}, {30, 30, 58, 58, 0.8f, 0}}, 60, 60);
  const at::Tensor drawn = draw_instances(image, two, {}, {0.3, true, 1});
  EXPECT_EQ(pixel(drawn, 30, 40), label_color(1)) << "the frame of the lower instance";
  EXPECT_EQ(pixel(drawn, 25, 15), half(label_color(0), 0));
  EXPECT_EQ(pixel(drawn, 20 - kGlyphHeight, 10), label_color(0)) << "its caption";
  // More masks than are computed together.
  const at::Tensor many =
      draw_instances(image, with_masks(std::vector<Box>(20, {5, 5, 25, 25, 0.9f, 1}), 60, 60), {},
                     {.labels = false, .boxes = false});
  EXPECT_EQ(pixel(many, 5, 5), label_color(0));
}

TEST(DrawInstances, ChecksItsArguments) {
  const auto none = instances({});
  EXPECT_THROW(draw_instances(at::zeros({4, 4}, at::kByte), none, {}), ValueError);
  EXPECT_THROW(draw_instances(at::zeros({4, 4, 3}), none, {}), TypeError);
  auto elsewhere = none;
  elsewhere.image_size = {5, 5};
  EXPECT_THROW(draw_instances(at::zeros({4, 4, 3}, at::kByte), elsewhere, {}), ValueError);
  auto uneven = instances({{1, 1, 2, 2, 0.9f, 0}});
  uneven.boxes = at::zeros({2, 4});
  EXPECT_THROW(draw_instances(at::zeros({4, 4, 3}, at::kByte), uneven, {}), ValueError);
  auto masks = with_masks({{1, 1, 2, 2, 0.9f, 0}}, 4, 4);
  masks.masks.image_size = {4, 5};
  EXPECT_THROW(draw_instances(at::zeros({4, 4, 3}, at::kByte), masks, {}), ValueError);
}

TEST(Palette, ColoursAreDistinctAndTextIsReadable) {
  EXPECT_EQ(std::set<Color>(kPalette.begin(), kPalette.end()).size(), kPalette.size());
  EXPECT_EQ(label_color(static_cast<int64_t>(kPalette.size()) + 2), label_color(2));
  EXPECT_EQ(label_color(-1), kPalette.back());
  for (const Color& color : kPalette) {
    const Color text = text_color(color);
    const auto luma = [](const Color& c) { return 299 * c[0] + 587 * c[1] + 114 * c[2]; };
    EXPECT_GT(std::abs(luma(text) - luma(color)), 100'000);
  }
}

TEST(Font, GlyphsAreDistinctAndFitTheCell) {
  std::set<std::vector<uint8_t>> glyphs;
  for (const auto& glyph : kFont) {
    glyphs.emplace(std::begin(glyph), std::end(glyph));
    for (const uint8_t row : glyph) EXPECT_LT(row, 1 << kGlyphWidth);
  }
  EXPECT_EQ(glyphs.size(), std::size(kFont));
}

}  // namespace
}  // namespace instseg
