// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/blend.h"
#include "kernels/fast_math.h"
#include "kernels/isa.h"

namespace instseg::kernels {

/** Indices begin..end-1. */
struct IndexRange {
  int64_t begin = 0, end = 0;
};

/** Rows of one map's gradient that are wanted. */
struct RowSlice {
  int64_t begin, end;
  float* grad;  // row 0 of the map
};

/** Tables of one instance of the blender and its buffers for one output row; reused for the next instance. */
class BlendInstance {
 public:
  explicit BlendInstance(const BlendInput& in);
  /** Prepares instance n; false when no sample lies on the map of its image. */
  bool locate(int64_t n);

  const BlendInput& in;
  int64_t image = 0;
  const float* map = nullptr;          // bases of the image
  const float* attention = nullptr;    // [channels, cells, cells]
  IndexRange rows, columns;            // of the output: those whose sample lies on the map
  IndexRange cells;                    // columns of the map that are read
  std::vector<LinearTap<float>> x, y;  // [size] samples of the bases
  std::vector<LinearTap<float>> up;    // [size] of the attention, both axes
  std::vector<float> wide;             // [channels, cells, size] attention enlarged along x
  std::vector<float> weights;          // [channels, size] exp(attention - peak)
  std::vector<float> peak;             // [size] largest attention
  std::vector<float> share;            // [size] 1 / sum of the weights
  std::vector<float> samples;          // [channels, size] of the bases
  std::vector<float> mixed;            // [size, channels] such samples or their gradient
  std::vector<float> line;             // [width, channels] one row of the map or of its gradient
};

// Row loops: instantiated inside functions that are compiled per instruction set. kChannels 0: any number.

/** wide = attention enlarged along x. Column by column: one tap serves all rows. */
[[gnu::always_inline]] inline void widen(BlendInstance& it) {
  const int64_t size = it.in.size, cells = it.in.cells, rows = it.in.channels * cells;
  for (int64_t i = it.columns.begin; i < it.columns.end; ++i) {
    const LinearTap<float> tap = it.up[i];
    const float* low = it.attention + tap.index0;
    const float* high = it.attention + tap.index1;
    float* __restrict out = it.wide.data() + i;
    for (int64_t row = 0; row < rows; ++row) {
      out[row * size] = tap.weight0 * low[row * cells] + tap.weight1 * high[row * cells];
    }
  }
}

/** exp(value - peak) for value <= peak; NaN stays NaN. */
[[gnu::always_inline]] inline float exp_below(float value, float peak) {
  const float below = peak - value;
  return below == below ? exp_negative(below) : below;
}

/** weights and share of one output row: weights * share is the softmax over the channels. */
[[gnu::always_inline]] inline void softmax_row(BlendInstance& it, int64_t row) {
  const int64_t size = it.in.size, channels = it.in.channels, begin = it.columns.begin, end = it.columns.end;
  const LinearTap<float> tap = it.up[row];
  float* __restrict peak = it.peak.data();
  float* __restrict sum = it.share.data();
  INSTSEG_INDEPENDENT
  for (int64_t i = begin; i < end; ++i) peak[i] = -std::numeric_limits<float>::infinity();
  INSTSEG_INDEPENDENT
  for (int64_t i = begin; i < end; ++i) sum[i] = 0.0f;
  for (int64_t k = 0; k < channels; ++k) {
    const float* low = it.wide.data() + (k * it.in.cells + tap.index0) * size;
    const float* high = it.wide.data() + (k * it.in.cells + tap.index1) * size;
    float* __restrict value = it.weights.data() + k * size;
    INSTSEG_INDEPENDENT
    for (int64_t i = begin; i < end; ++i) {
      const float a = tap.weight0 * low[i] + tap.weight1 * high[i];
      value[i] = a;
      peak[i] = a > peak[i] ? a : peak[i];
    }
  }
  for (int64_t k = 0; k < channels; ++k) {
    float* __restrict value = it.weights.data() + k * size;
    INSTSEG_INDEPENDENT
    for (int64_t i = begin; i < end; ++i) {
      value[i] = exp_below(value[i], peak[i]);
      sum[i] += value[i];
    }
  }
  INSTSEG_INDEPENDENT
  for (int64_t i = begin; i < end; ++i) sum[i] = 1.0f / sum[i];
}

/** The same for four channels, whose values stay in registers. */
[[gnu::always_inline]] inline void softmax_row_of_four(BlendInstance& it, int64_t row) {
  const int64_t size = it.in.size, begin = it.columns.begin, end = it.columns.end;
  const int64_t pitch = it.in.cells * size;
  const LinearTap<float> tap = it.up[row];
  const float* low = it.wide.data() + tap.index0 * size;
  const float* high = it.wide.data() + tap.index1 * size;
  float* __restrict weights = it.weights.data();
  float* __restrict share = it.share.data();
  INSTSEG_INDEPENDENT
  for (int64_t i = begin; i < end; ++i) {
    const float a = tap.weight0 * low[i] + tap.weight1 * high[i];
    const float b = tap.weight0 * low[pitch + i] + tap.weight1 * high[pitch + i];
    const float c = tap.weight0 * low[2 * pitch + i] + tap.weight1 * high[2 * pitch + i];
    const float d = tap.weight0 * low[3 * pitch + i] + tap.weight1 * high[3 * pitch + i];
    const float ab = a > b ? a : b, cd = c > d ? c : d, peak = ab > cd ? ab : cd;
    const float e = exp_below(a, peak), f = exp_below(b, peak);
    const float g = exp_below(c, peak), h = exp_below(d, peak);
    weights[i] = e;
    weights[size + i] = f;
    weights[2 * size + i] = g;
    weights[3 * size + i] = h;
    share[i] = 1.0f / ((e + f) + (g + h));
  }
}

/** One sample of line [width, channels]; channel k to out[k * pitch]. */
[[gnu::always_inline]] inline void interpolate(const float* line, LinearTap<float> tap, int64_t channels,
                                               int64_t pitch, float* out) {
  const float* left = line + tap.index0 * channels;
  const float* right = line + tap.index1 * channels;
  for (int64_t k = 0; k < channels; ++k) out[k * pitch] = tap.weight0 * left[k] + tap.weight1 * right[k];
}

/** The same as one vector, which the local copy makes of it. */
template <int64_t kChannels>
[[gnu::always_inline]] inline void interpolate_vector(const float* line, LinearTap<float> tap, float* out) {
  const float* left = line + tap.index0 * kChannels;
  const float* right = line + tap.index1 * kChannels;
  float values[kChannels];
  for (int64_t k = 0; k < kChannels; ++k) values[k] = tap.weight0 * left[k] + tap.weight1 * right[k];
  for (int64_t k = 0; k < kChannels; ++k) out[k] = values[k];
}

/** samples of one output row: the two rows of the map are blended first, over the cells that are read. */
template <int64_t kChannels>
[[gnu::always_inline]] inline void sample_row(BlendInstance& it, int64_t row) {
  const int64_t channels = kChannels ? kChannels : it.in.channels, pitch = it.in.width * channels;
  const int64_t first = it.cells.begin * channels, last = it.cells.end * channels;
  const LinearTap<float> tap = it.y[row];
  const float* top = it.map + tap.index0 * pitch;
  const float* bottom = it.map + tap.index1 * pitch;
  float* __restrict line = it.line.data();
  INSTSEG_INDEPENDENT
  for (int64_t i = first; i < last; ++i) line[i] = tap.weight0 * top[i] + tap.weight1 * bottom[i];
  float* __restrict samples = it.samples.data();
  const int64_t begin = it.columns.begin, end = it.columns.end, size = it.in.size;
  if constexpr (kChannels == 0) {
    for (int64_t i = begin; i < end; ++i) interpolate(line, it.x[i], channels, size, samples + i);
  } else {
    float* __restrict mixed = it.mixed.data();
    for (int64_t i = begin; i < end; ++i) {
      interpolate_vector<kChannels>(line, it.x[i], mixed + i * kChannels);
    }
    INSTSEG_INDEPENDENT
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t k = 0; k < kChannels; ++k) samples[k * size + i] = mixed[i * kChannels + k];
    }
  }
}

/** The logits of one output row, from its samples and weights. */
template <int64_t kChannels>
[[gnu::always_inline]] inline void logits_row(const BlendInstance& it, float* __restrict logits) {
  const int64_t begin = it.columns.begin, end = it.columns.end, size = it.in.size;
  const float* weights = it.weights.data();
  const float* samples = it.samples.data();
  const float* share = it.share.data();
  if constexpr (kChannels > 0) {
    INSTSEG_INDEPENDENT
    for (int64_t i = begin; i < end; ++i) {
      float sum = 0;
      for (int64_t k = 0; k < kChannels; ++k) sum += weights[k * size + i] * samples[k * size + i];
      logits[i] = sum * share[i];
    }
    return;
  }
  INSTSEG_INDEPENDENT
  for (int64_t i = begin; i < end; ++i) logits[i] = 0.0f;
  for (int64_t k = 0; k < it.in.channels; ++k) {
    INSTSEG_INDEPENDENT
    for (int64_t i = begin; i < end; ++i) logits[i] += weights[k * size + i] * samples[k * size + i];
  }
  INSTSEG_INDEPENDENT
  for (int64_t i = begin; i < end; ++i) logits[i] *= share[i];
}

}  // namespace instseg::kernels
