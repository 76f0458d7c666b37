// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "instseg/error.h"
#include "instseg/image.h"
#include "io/font.h"
#include "io/palette.h"

namespace instseg {
namespace {

// Pixels [x0, x1) x [y0, y1).
struct Rectangle {
  int64_t x0, y0, x1, y1;
};

struct Canvas {
  uint8_t* pixels;
  int64_t height, width;

  void fill(const Rectangle& area, const Color& color) const {
    const int64_t x0 = std::max<int64_t>(area.x0, 0), x1 = std::min(area.x1, width);
    const int64_t y0 = std::max<int64_t>(area.y0, 0), y1 = std::min(area.y1, height);
    for (int64_t y = y0; y < y1; ++y) {
      for (int64_t x = x0; x < x1; ++x) std::copy(color.begin(), color.end(), pixels + 3 * (y * width + x));
    }
  }

  // A frame of `line` pixels inside `area`.
  void frame(const Rectangle& area, int64_t line, const Color& color) const {
    const int64_t inner_top = std::min(area.y0 + line, area.y1),
                  inner_bottom = std::max(area.y1 - line, inner_top);
    fill({area.x0, area.y0, area.x1, inner_top}, color);
    fill({area.x0, inner_bottom, area.x1, area.y1}, color);
    fill({area.x0, inner_top, std::min(area.x0 + line, area.x1), inner_bottom}, color);
    fill({std::max(area.x1 - line, area.x0), inner_top, area.x1, inner_bottom}, color);
  }

  // `text` in the bitmap font, every font pixel a square of `scale` pixels, its top left corner at (x, y).
  void write(const std::string& text, int64_t x, int64_t y, int64_t scale, const Color& color) const {
    for (const char c : text) {
      const uint8_t* glyph = kFont[c - kFirstGlyph];
      for (int64_t row = 0; row < kGlyphHeight; ++row) {
        for (int64_t column = 0; column < kGlyphWidth; ++column) {
          if ((glyph[row] >> (kGlyphWidth - 1 - column) & 1) == 0) continue;
          const int64_t left = x + column * scale, top = y + row * scale;
          fill({left, top, left + scale, top + scale}, color);
        }
      }
      x += (kGlyphWidth + 1) * scale;
    }
  }
};

// Characters the font lacks become '?', one per UTF-8 character.
std::string printable_ascii(const std::string& text) {
  std::string result;
  for (const char c : text) {
    const bool continuation = (static_cast<unsigned char>(c) & 0xc0) == 0x80;
    if (c >= kFirstGlyph && c <= kLastGlyph) {
      result += c;
    } else if (!continuation) {
      result += '?';
    }
  }
  return result;
}

std::string caption(int64_t label, float score, const std::vector<std::string>& class_names) {
  const bool named = label >= 0 && label < static_cast<int64_t>(class_names.size());
  const std::string name = named ? printable_ascii(class_names[label]) : std::to_string(label);
  const auto percent = static_cast<int>(std::clamp(score, 0.f, 1.f) * 100 + 0.5f);
  char text[16];
  std::snprintf(text, sizeof text, " %d.%02d", percent / 100, percent % 100);
  return name + text;
}

// The pixels a box touches; far coordinates are cut so that they fit an integer.
Rectangle touched_pixels(const float* box) {
  const auto cut = [](float value) { return static_cast<int64_t>(std::clamp(value, -1e6f, 1e6f)); };
  const Rectangle area{cut(std::floor(box[0])), cut(std::floor(box[1])), cut(std::ceil(box[2])),
                       cut(std::ceil(box[3]))};
  return {area.x0, area.y0, std::max(area.x1, area.x0 + 1), std::max(area.y1, area.y0 + 1)};
}

// Above the box, or inside it at the top of the image; moved left where it would leave the image.
void draw_caption(const Canvas& canvas, const Rectangle& box, const std::string& text, const Color& color) {
  const int64_t scale = std::max<int64_t>(1, (canvas.height + canvas.width + 350) / 700);
  const int64_t text_width = (static_cast<int64_t>(text.size()) * (kGlyphWidth + 1) + 1) * scale;
  const int64_t text_height = (kGlyphHeight + 1) * scale;
  const int64_t x = std::max<int64_t>(0, std::min(box.x0, canvas.width - text_width));
  const int64_t y = std::max<int64_t>(0, box.y0 >= text_height ? box.y0 - text_height : box.y0);
  canvas.fill({x, y, x + text_width, y + text_height}, color);
  canvas.write(text, x + scale, y + scale, scale, text_color(color));
}

void check_arguments(const at::Tensor& image, const Instances& instances) {
  check<ValueError>(
      image.defined() && image.dim() == 3 && image.size(2) == 3,
      "[draw_instances] needs an RGB image [H, W, 3]",
      image.defined() ? join(", got ", image.sizes()) : std::string(", got an undefined tensor"));
  check<TypeError>(image.scalar_type() == at::kByte, "[draw_instances] needs uint8 pixels, got ",
                   image.scalar_type());
  const ImageSize size{image.size(0), image.size(1)};
  check<ValueError>(instances.image_size == ImageSize{} || instances.image_size == size,
                    "[draw_instances] the image is ", size.height, "x", size.width,
                    ", the instances belong to one of ", instances.image_size.height, "x",
                    instances.image_size.width);
  const int64_t n = instances.size();
  check<ValueError>(n == 0 || (instances.boxes.sizes() == at::IntArrayRef({n, 4}) &&
                               instances.labels.sizes() == at::IntArrayRef({n})),
                    "[draw_instances] boxes and labels do not fit ", n, " scores");
}

}  // namespace

at::Tensor draw_instances(const at::Tensor& image, const Instances& instances,
                          const std::vector<std::string>& class_names, const DrawOptions& options) {
  check_arguments(image, instances);
  at::Tensor result = image.to(at::kCPU).contiguous().clone();
  const int64_t n = instances.size();
  if (n == 0 || result.numel() == 0) return result;
  const at::Tensor boxes = instances.boxes.to(at::kCPU, at::kFloat).contiguous();
  const at::Tensor scores = instances.scores.to(at::kCPU, at::kFloat).contiguous();
  const at::Tensor labels = instances.labels.to(at::kCPU, at::kLong).contiguous();
  const auto* box = boxes.const_data_ptr<float>();
  const auto* score = scores.const_data_ptr<float>();
  const auto* label = labels.const_data_ptr<int64_t>();

  const Canvas canvas{result.mutable_data_ptr<uint8_t>(), result.size(0), result.size(1)};
  const int64_t line = options.line_width > 0
                           ? options.line_width
                           : std::max<int64_t>(1, (canvas.height + canvas.width + 250) / 500);
  std::vector<int64_t> drawn;  // the best last, so that it covers the others
  for (int64_t i = n; i-- > 0;) {
    const bool finite =
        std::all_of(box + 4 * i, box + 4 * i + 4, [](float value) { return std::isfinite(value); });
    if (finite && score[i] >= static_cast<float>(options.score_threshold)) drawn.push_back(i);
  }
  for (const int64_t i : drawn) canvas.frame(touched_pixels(box + 4 * i), line, label_color(label[i]));
  if (!options.labels) return result;
  for (const int64_t i : drawn) {
    draw_caption(canvas, touched_pixels(box + 4 * i), caption(label[i], score[i], class_names),
                 label_color(label[i]));
  }
  return result;
}

}  // namespace instseg
