// SPDX-License-Identifier: Apache-2.0
#include <ATen/ops/tensor.h>

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

  // Half `color`, half of what is there.
  void tint(int64_t x, int64_t y, const Color& color) const {
    uint8_t* pixel = pixels + 3 * (y * width + x);
    for (size_t c = 0; c < 3; ++c) pixel[c] = static_cast<uint8_t>((pixel[c] + color[c] + 1) / 2);
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

// The part of a crop that is more than `line` pixels from its outline.
std::vector<uint8_t> core_of(const uint8_t* bitmap, int64_t height, int64_t width, int64_t line) {
  std::vector<uint8_t> core(bitmap, bitmap + height * width), before;
  for (int64_t step = 0; step < std::min(line, std::max(height, width)); ++step) {
    before = core;
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        const int64_t i = y * width + x;
        const bool edge = y == 0 || x == 0 || y == height - 1 || x == width - 1;
        core[i] =
            !edge && (before[i] & before[i - 1] & before[i + 1] & before[i - width] & before[i + width]);
      }
    }
  }
  return core;
}

void draw_mask(const Canvas& canvas, const MaskCrop& crop, int64_t line, const Color& color) {
  const int64_t height = crop.bitmap.size(0), width = crop.bitmap.size(1);
  const auto* bitmap = crop.bitmap.const_data_ptr<uint8_t>();
  const std::vector<uint8_t> core = core_of(bitmap, height, width, line);
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      if (bitmap[y * width + x] == 0) continue;
      if (core[y * width + x]) {
        canvas.tint(crop.x + x, crop.y + y, color);
      } else {
        canvas.fill({crop.x + x, crop.y + y, crop.x + x + 1, crop.y + y + 1}, color);
      }
    }
  }
}

// Masks of the instances `drawn`, in that order; a few at a time, which bounds the memory.
void draw_masks(const Canvas& canvas, const Masks& masks, const std::vector<int64_t>& drawn, int64_t line) {
  constexpr size_t kTogether = 8;
  for (size_t first = 0; first < drawn.size(); first += kTogether) {
    const size_t count = std::min(kTogether, drawn.size() - first);
    const at::Tensor index = at::tensor(at::ArrayRef<int64_t>(drawn).slice(first, count), at::kLong);
    const auto crops = masks.select(index.to(masks.probabilities.device())).crops();
    for (size_t i = 0; i < count; ++i) draw_mask(canvas, crops[i], line, label_color(drawn[first + i]));
  }
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
  const Masks& masks = instances.masks;
  check<ValueError>(!masks.defined() || (masks.size() == n && masks.image_size == size), "[draw_instances] ",
                    masks.size(), " masks of a ", masks.image_size.height, "x", masks.image_size.width,
                    " image do not fit ", n, " scores and one of ", size.height, "x", size.width);
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
  const bool masks = options.masks && instances.masks.defined();
  const auto color = [&](int64_t i) { return label_color(masks ? i : label[i]); };
  if (masks) draw_masks(canvas, instances.masks, drawn, (line + 1) / 2);
  for (const int64_t i : drawn) {
    if (options.boxes) canvas.frame(touched_pixels(box + 4 * i), line, color(i));
  }
  for (const int64_t i : drawn) {
    if (!options.labels) break;
    draw_caption(canvas, touched_pixels(box + 4 * i), caption(label[i], score[i], class_names), color(i));
  }
  return result;
}

}  // namespace instseg
