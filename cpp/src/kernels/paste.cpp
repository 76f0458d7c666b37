// SPDX-License-Identifier: Apache-2.0
#include "kernels/paste.h"

#include <algorithm>
#include <cstring>

#include "kernels/isa.h"

// A pixel lies between the lines it mixes. Where these are all clearly above or all clearly below the limit,
// so is the pixel: only pixels between lines that straddle the limit are computed.
namespace instseg::kernels {

INSTSEG_CLONES_NO_FMA void paste_row_maxima(const float* row, int64_t n, float* row_max, float* row_min,
                                            float* column_max) {
  float high[8], low[8];
  std::fill(high, high + 8, -INFINITY);
  std::fill(low, low + 8, INFINITY);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {  // NaN is passed over: what it touches is outside
    for (int64_t k = 0; k < 8; ++k) {
      const float value = row[i + k];
      high[k] = value > high[k] ? value : high[k];
      low[k] = value < low[k] ? value : low[k];
      column_max[i + k] = value > column_max[i + k] ? value : column_max[i + k];
    }
  }
  for (; i < n; ++i) {
    high[0] = row[i] > high[0] ? row[i] : high[0];
    low[0] = row[i] < low[0] ? row[i] : low[0];
    column_max[i] = row[i] > column_max[i] ? row[i] : column_max[i];
  }
  *row_max = *std::max_element(high, high + 8);
  *row_min = *std::min_element(low, low + 8);
}

// Values of one output column on the lines, and which of them are clearly inside or outside.
INSTSEG_CLONES_NO_FMA void paste_mix_two(const float* __restrict a, const float* __restrict b, int64_t n,
                                         float second, float low, float high, float* __restrict mixed,
                                         uint8_t* __restrict inside, uint8_t* __restrict outside) {
  for (int64_t i = 0; i < n; ++i) mixed[i] = paste_mix(a[i], b[i], second);
  for (int64_t i = 0; i < n; ++i) inside[i] = mixed[i] >= high;
  for (int64_t i = 0; i < n; ++i) outside[i] = mixed[i] <= low;
}

INSTSEG_CLONES_NO_FMA void paste_mix_three(const float* __restrict a, const float* __restrict b,
                                           const float* __restrict c, int64_t n, float second, float third,
                                           float low, float high, float* __restrict mixed,
                                           uint8_t* __restrict inside, uint8_t* __restrict outside) {
  for (int64_t i = 0; i < n; ++i) mixed[i] = paste_mix(a[i], b[i], c[i], second, third);
  for (int64_t i = 0; i < n; ++i) inside[i] = mixed[i] >= high;
  for (int64_t i = 0; i < n; ++i) outside[i] = mixed[i] <= low;
}

// straddles[i] = 1 unless lines i..i+per_tap-1 are all clearly inside or all clearly outside.
INSTSEG_CLONES_NO_FMA void paste_straddles(const uint8_t* __restrict inside,
                                           const uint8_t* __restrict outside, int64_t n, int per_tap,
                                           uint8_t* __restrict straddles) {
  if (per_tap == 2) {
    for (int64_t i = 0; i < n; ++i) {
      straddles[i] = ((inside[i] & inside[i + 1]) | (outside[i] & outside[i + 1])) ^ 1;
    }
  } else {
    for (int64_t i = 0; i < n; ++i) {
      straddles[i] =
          ((inside[i] & inside[i + 1] & inside[i + 2]) | (outside[i] & outside[i + 1] & outside[i + 2])) ^ 1;
    }
  }
}

namespace {

// Rounding moves a mix of values up to 1 by less than this.
constexpr float kSlack = 1e-6f;

// Lines [begin, end) of an axis.
struct Span {
  int64_t begin = 0, end = 0;
};

// Collects run lengths from the places where the value changes.
class Runs {
 public:
  explicit Runs(std::vector<uint32_t>& counts) : counts_(counts) { counts_.clear(); }
  void set(int64_t place, bool inside) {
    if (inside == inside_) return;
    counts_.push_back(static_cast<uint32_t>(place - last_));
    last_ = place;
    inside_ = inside;
  }
  void finish(int64_t pixels) { counts_.push_back(static_cast<uint32_t>(pixels - last_)); }

 private:
  std::vector<uint32_t>& counts_;
  int64_t last_ = 0;
  bool inside_ = false;
};

// First and last line with a value that is not clearly outside.
Span active_lines(const std::vector<float>& maxima, float low) {
  const auto active = [&](float value) { return value > low; };
  const auto first = std::find_if(maxima.begin(), maxima.end(), active);
  if (first == maxima.end()) return {};
  const auto last = std::find_if(maxima.rbegin(), maxima.rend(), active);
  return {first - maxima.begin(), maxima.rend() - last};
}

class Paste {
 public:
  Paste(const PasteMap& map, int per_tap, float limit, PasteScratch& scratch)
      : map_(map), per_tap_(per_tap), limit_(limit), scratch_(scratch) {}

  // Finds the lines that matter; false when every pixel is outside.
  bool find_active() {
    scratch_.row_max.resize(map_.height);
    scratch_.column_max.assign(map_.width, -INFINITY);
    float magnitude = 1;
    for (int64_t row = 0; row < map_.height; ++row) {
      float low = 0;
      float& high = scratch_.row_max[row];
      paste_row_maxima(map_.values + row * map_.width, map_.width, &high, &low, scratch_.column_max.data());
      magnitude = std::max({magnitude, high, -low});
    }
    low_ = limit_ - kSlack * magnitude;
    high_ = std::isinf(magnitude) ? NAN : limit_ + kSlack * magnitude;  // NaN: no line is clearly inside
    Span y = active_lines(scratch_.row_max, low_), x = active_lines(scratch_.column_max, low_);
    if (map_.zero_border && !(low_ >= 0)) {  // zeros may be inside
      y = {0, map_.height + 2};
      x = {0, map_.width + 2};
    } else if (y.end == 0 || x.end == 0) {
      return false;
    } else if (map_.zero_border) {
      y = {y.begin + 1, y.end + 1};
      x = {x.begin + 1, x.end + 1};
    }
    const int64_t before = per_tap_ - 1;
    rows_ = {std::max<int64_t>(0, y.begin - before), y.end};
    columns_ = {std::max<int64_t>(0, x.begin - before), x.end};
    length_ = rows_.end - rows_.begin + before;
    return true;
  }

  // Copies the active lines, turned, so that an output column mixes contiguous memory.
  void turn() {
    const int64_t border = map_.zero_border ? 1 : 0, block = 16;
    const int64_t width = columns_.end - columns_.begin + per_tap_ - 1;
    scratch_.lines.resize(width * length_);
    for (int64_t first = 0; first < length_; first += block) {
      for (int64_t column = 0; column < width; ++column) {
        int64_t x = columns_.begin + column - border;
        const bool zero = border && (x < 0 || x >= map_.width);
        x = std::min(x, map_.width - 1);
        float* target = scratch_.lines.data() + column * length_;
        for (int64_t i = first; i < std::min(first + block, length_); ++i) {
          const int64_t y = rows_.begin + i - border;
          const bool outside = zero || (border && (y < 0 || y >= map_.height));
          target[i] = outside ? 0.0f : map_.values[std::min(y, map_.height - 1) * map_.width + x];
        }
      }
    }
  }

  // first[i]: the first output whose tap starts at line rows.begin + i or later.
  void index_outputs(const PasteAxis& y) {
    const int64_t n = rows_.end - rows_.begin;
    scratch_.first.resize(n + 1);
    int64_t output = y.begin;
    for (int64_t i = 0; i <= n; ++i) {
      while (output < y.end && y.taps[output - y.begin].start < rows_.begin + i) ++output;
      scratch_.first[i] = output;
    }
    scratch_.mixed.resize(length_);
    scratch_.inside.resize(length_);
    scratch_.outside.resize(length_);
    scratch_.straddles.resize(n);
  }

  bool touches(const PasteTap& x) const { return x.start >= columns_.begin && x.start < columns_.end; }

  // One output column; its first pixel has place `base`.
  void column(const PasteTap& x, const PasteAxis& y, int64_t base, Runs& runs) {
    const int64_t n = rows_.end - rows_.begin;
    mix(x, n);
    const std::vector<int64_t>& first = scratch_.first;
    const uint8_t *inside = scratch_.inside.data(), *straddles = scratch_.straddles.data();
    if (first[0] > 0) runs.set(base, false);
    for (int64_t done = 0; done < n;) {
      int64_t next = done;
      if (straddles[done] == 0) {
        const void* found = std::memchr(straddles + done, 1, n - done);
        next = found ? static_cast<const uint8_t*>(found) - straddles : n;
        if (first[next] > first[done]) runs.set(base + first[done], inside[done] != 0);
      }
      if (next < n) evaluate(y, first[next], first[next + 1], next, base, runs);
      done = next + 1;
    }
    if (first[n] < y.size) runs.set(base + first[n], false);
  }

 private:
  void mix(const PasteTap& x, int64_t n) {
    const float* a = scratch_.lines.data() + (x.start - columns_.begin) * length_;
    uint8_t *inside = scratch_.inside.data(), *outside = scratch_.outside.data();
    if (per_tap_ == 2) {
      paste_mix_two(a, a + length_, length_, x.second, low_, high_, scratch_.mixed.data(), inside, outside);
    } else {
      paste_mix_three(a, a + length_, a + 2 * length_, length_, x.second, x.third, low_, high_,
                      scratch_.mixed.data(), inside, outside);
    }
    paste_straddles(inside, outside, n, per_tap_, scratch_.straddles.data());
  }

  void evaluate(const PasteAxis& y, int64_t begin, int64_t end, int64_t line, int64_t base,
                Runs& runs) const {
    const float* v = scratch_.mixed.data() + line;
    for (int64_t i = begin; i < end; ++i) {
      const PasteTap& tap = y.taps[i - y.begin];
      const float value = per_tap_ == 2 ? paste_mix(v[0], v[1], tap.second)
                                        : paste_mix(v[0], v[1], v[2], tap.second, tap.third);
      runs.set(base + i, value > limit_);
    }
  }

  const PasteMap& map_;
  int per_tap_;
  float limit_, low_ = 0, high_ = 0;
  PasteScratch& scratch_;
  Span rows_, columns_;  // starts of taps that can reach the inside
  int64_t length_ = 0;   // lines such taps read
};

}  // namespace

void paste_runs_cpu(const PasteMap& map, const PasteAxis& x, const PasteAxis& y, int lines_per_tap,
                    float limit, PasteScratch& scratch, std::vector<uint32_t>& counts) {
  Runs runs(counts);
  Paste paste(map, lines_per_tap, limit, scratch);
  if (x.begin < x.end && y.begin < y.end && paste.find_active()) {
    paste.turn();
    paste.index_outputs(y);
    for (int64_t i = x.begin; i < x.end; ++i) {
      const PasteTap& tap = x.taps[i - x.begin];
      if (paste.touches(tap)) {
        paste.column(tap, y, i * y.size, runs);
      } else {
        runs.set(i * y.size, false);
      }
    }
    if (x.end < x.size) runs.set(x.end * y.size, false);
  }
  runs.finish(x.size * y.size);
}

}  // namespace instseg::kernels
