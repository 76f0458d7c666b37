// SPDX-License-Identifier: Apache-2.0
#include "kernels/mask_align.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace instseg::kernels {
namespace {

// Two neighbouring pixels of an axis and their weights.
struct Sample {
  int64_t low, high;
  float low_weight, high_weight;
};

// Samples of one axis that lie in the image; a bin's are `per_bin` in a row, `first` are left out before.
struct Axis {
  int64_t per_bin = 0, first = 0;
  std::vector<Sample> samples;

  Axis(float begin, float end, int64_t size, int64_t pixels) {
    const float start = begin - 0.5f, side = end - begin, bin = side / static_cast<float>(size);
    if (!(side > 0)) return;
    // A box far larger than any image would overflow the count; such bins hold no pixel to speak of.
    per_bin = static_cast<int64_t>(std::min(std::ceil(bin), 1e12f));
    const double step = static_cast<double>(bin) / static_cast<double>(per_bin);
    const auto all = static_cast<double>(size * per_bin);
    // Two more at each end than the real numbers say, since the positions are rounded.
    first = static_cast<int64_t>(std::clamp(std::floor((-1.0 - start) / step) - 2, 0.0, all));
    const auto last = static_cast<int64_t>(
        std::clamp(std::ceil((static_cast<double>(pixels) - start) / step) + 2, 0.0, all));
    for (int64_t i = first; i < last; ++i) {
      const float at = start + static_cast<float>(i / per_bin) * bin +
                       (static_cast<float>(i % per_bin) + 0.5f) * bin / static_cast<float>(per_bin);
      samples.push_back(sample(at, pixels));
    }
  }

  static Sample sample(float at, int64_t pixels) {
    if (!(at >= -1.f && at <= static_cast<float>(pixels))) return {0, 0, 0.f, 0.f};  // also NaN
    at = std::max(at, 0.f);
    const auto low = static_cast<int64_t>(at);
    if (low >= pixels - 1) return {pixels - 1, pixels - 1, 1.f, 0.f};
    const float fraction = at - static_cast<float>(low);
    return {low, low + 1, 1.f - fraction, fraction};
  }

  // Samples of a bin, as indices into `samples`.
  Run of_bin(int64_t bin) const {
    const auto kept = static_cast<int64_t>(samples.size());
    return {std::clamp<int64_t>(bin * per_bin - first, 0, kept),
            std::clamp<int64_t>((bin + 1) * per_bin - first, 0, kept)};
  }

  // Pixels that any sample reads.
  Run pixels() const {
    Run range{0, 0};
    for (const Sample& s : samples) {
      if (s.low_weight == 0 && s.high_weight == 0) continue;
      if (range.begin == range.end) range = {s.low, s.high + 1};
      range = {std::min(range.begin, s.low), std::max(range.end, s.high + 1)};
    }
    return range;
  }
};

// The part of a mask inside rows and columns, column after column.
std::vector<uint8_t> cut(const Runs& runs, int64_t height, const Run& rows, const Run& columns) {
  const int64_t high = rows.end - rows.begin;
  std::vector<uint8_t> crop(high * (columns.end - columns.begin));
  for_each_piece(runs, height, [&](int64_t x, int64_t y0, int64_t y1) {
    if (x < columns.begin || x >= columns.end) return;
    const int64_t begin = std::max(y0, rows.begin), end = std::min(y1, rows.end);
    if (begin < end)
      std::memset(crop.data() + (x - columns.begin) * high + begin - rows.begin, 1, end - begin);
  });
  return crop;
}

}  // namespace

void align_runs(const Runs& runs, int64_t height, int64_t width, const float* box, int64_t size,
                uint8_t* out) {
  std::memset(out, 0, size * size);
  const Axis vertical(box[1], box[3], size, height), horizontal(box[0], box[2], size, width);
  const Run rows = vertical.pixels(), columns = horizontal.pixels();
  if (runs.empty() || rows.begin == rows.end || columns.begin == columns.end) return;
  const std::vector<uint8_t> crop = cut(runs, height, rows, columns);
  const int64_t high = rows.end - rows.begin;
  const float count = static_cast<float>(vertical.per_bin) * static_cast<float>(horizontal.per_bin);
  for (int64_t i = 0; i < size; ++i) {
    const Run down = vertical.of_bin(i);
    for (int64_t j = 0; j < size; ++j) {
      const Run across = horizontal.of_bin(j);
      float sum = 0;
      for (int64_t k = down.begin; k < down.end; ++k) {
        const Sample& y = vertical.samples[k];
        if (y.low_weight == 0 && y.high_weight == 0) continue;
        const uint8_t* low_row = crop.data() + y.low - rows.begin;
        const uint8_t* high_row = crop.data() + y.high - rows.begin;
        for (int64_t l = across.begin; l < across.end; ++l) {
          const Sample& x = horizontal.samples[l];
          if (x.low_weight == 0 && x.high_weight == 0) continue;
          const int64_t left = (x.low - columns.begin) * high, right = (x.high - columns.begin) * high;
          // The order of the sums is that of the common implementations: ties at 1/2 depend on it.
          sum += y.low_weight * x.low_weight * static_cast<float>(low_row[left]) +
                 y.low_weight * x.high_weight * static_cast<float>(low_row[right]) +
                 y.high_weight * x.low_weight * static_cast<float>(high_row[left]) +
                 y.high_weight * x.high_weight * static_cast<float>(high_row[right]);
        }
      }
      out[i * size + j] = sum / count >= 0.5f;
    }
  }
}

}  // namespace instseg::kernels
