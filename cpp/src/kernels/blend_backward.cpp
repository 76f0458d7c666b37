// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <vector>

#include "kernels/blend.h"
#include "kernels/blend_instance.h"
#include "kernels/isa.h"

// A logit is the sum over k of w_k s_k, w the softmax of the attention a and s the samples of the bases:
// its derivative by a_k is w_k (s_k - logit), by s_k it is w_k. Both are computed again from the inputs.
namespace instseg::kernels {
namespace {

[[gnu::always_inline]] inline void add_row(const float* __restrict source, float weight, int64_t n,
                                           float* __restrict out) {
  for (int64_t i = 0; i < n; ++i) out[i] += weight * source[i];
}

// `wide_grad` [channels, cells, size] collects the gradient of `wide`.
template <int64_t kChannels>
[[gnu::always_inline]] inline void attention_slopes(BlendInstance& it, const float* grad, float* wide_grad) {
  const int64_t begin = it.columns.begin, end = it.columns.end, size = it.in.size;
  widen(it);
  for (int64_t row = it.rows.begin; row < it.rows.end; ++row) {
    if constexpr (kChannels == 4) {
      softmax_row_of_four(it, row);
    } else {
      softmax_row(it, row);
    }
    sample_row<kChannels>(it, row);
    float* logits = it.peak.data();  // no longer needed
    logits_row<kChannels>(it, logits);
    const LinearTap<float> tap = it.up[row];
    const float* g = grad + row * size;
    const float* share = it.share.data();
    for (int64_t k = 0; k < it.in.channels; ++k) {
      const float* weights = it.weights.data() + k * size;
      const float* samples = it.samples.data() + k * size;
      float* __restrict slope = it.mixed.data();
      for (int64_t i = begin; i < end; ++i) {
        slope[i] = g[i] * share[i] * weights[i] * (samples[i] - logits[i]);
      }
      add_row(slope + begin, tap.weight0, end - begin,
              wide_grad + (k * it.in.cells + tap.index0) * size + begin);
      if (tap.index1 == tap.index0) continue;
      add_row(slope + begin, tap.weight1, end - begin,
              wide_grad + (k * it.in.cells + tap.index1) * size + begin);
    }
  }
}

// The reverse of `widen`, added to grad_attention.
void narrow(const BlendInstance& it, const float* wide_grad, float* grad_attention) {
  const int64_t size = it.in.size, cells = it.in.cells, rows = it.in.channels * cells;
  for (int64_t i = it.columns.begin; i < it.columns.end; ++i) {  // outside: neighbours add to the same cell
    const LinearTap<float> tap = it.up[i];
    for (int64_t row = 0; row < rows; ++row) {
      grad_attention[row * cells + tap.index0] += tap.weight0 * wide_grad[row * size + i];
      grad_attention[row * cells + tap.index1] += tap.weight1 * wide_grad[row * size + i];
    }
  }
}

// The reverse of `interpolate`, added to `line`.
template <int64_t kChannels>
[[gnu::always_inline]] inline void spread(const float* slope, LinearTap<float> tap, int64_t channels,
                                          float* line) {
  float* left = line + tap.index0 * channels;
  float* right = line + tap.index1 * channels;
  if constexpr (kChannels > 0) {
    float low[kChannels], high[kChannels];
    for (int64_t k = 0; k < kChannels; ++k) low[k] = left[k] + tap.weight0 * slope[k];
    for (int64_t k = 0; k < kChannels; ++k) high[k] = tap.weight1 * slope[k];
    for (int64_t k = 0; k < kChannels; ++k) left[k] = low[k];
    for (int64_t k = 0; k < kChannels; ++k) high[k] += right[k];  // may be the same cell
    for (int64_t k = 0; k < kChannels; ++k) right[k] = high[k];
  } else {
    for (int64_t k = 0; k < channels; ++k) left[k] += tap.weight0 * slope[k];
    for (int64_t k = 0; k < channels; ++k) right[k] += tap.weight1 * slope[k];
  }
}

// Spreads each row's samples over the columns first, then over the two rows of the map.
template <int64_t kChannels>
[[gnu::always_inline]] inline void bases_rows(BlendInstance& it, const float* grad, RowSlice slice) {
  const int64_t channels = kChannels ? kChannels : it.in.channels, size = it.in.size;
  const int64_t begin = it.columns.begin, end = it.columns.end, pitch = it.in.width * channels;
  const int64_t first = it.cells.begin * channels, count = it.cells.end * channels - first;
  const LinearTap<float>* x = it.x.data();
  const auto wanted = [&](int64_t row) { return row >= slice.begin && row < slice.end; };
  widen(it);
  for (int64_t row = it.rows.begin; row < it.rows.end; ++row) {
    const LinearTap<float> tap = it.y[row];
    if (!wanted(tap.index0) && !wanted(tap.index1)) continue;
    if constexpr (kChannels == 4) {
      softmax_row_of_four(it, row);
    } else {
      softmax_row(it, row);
    }
    const float* g = grad + row * size;
    const float* weights = it.weights.data();
    const float* share = it.share.data();
    float* __restrict slope = it.mixed.data();
    for (int64_t i = begin; i < end; ++i) {
      const float factor = g[i] * share[i];
      for (int64_t k = 0; k < channels; ++k) slope[i * channels + k] = factor * weights[k * size + i];
    }
    float* line = it.line.data();
    std::fill_n(line + first, count, 0.0f);
    for (int64_t i = begin; i < end; ++i) spread<kChannels>(slope + i * channels, x[i], channels, line);
    if (wanted(tap.index0)) {
      add_row(line + first, tap.weight0, count, slice.grad + tap.index0 * pitch + first);
    }
    if (tap.index1 != tap.index0 && wanted(tap.index1)) {
      add_row(line + first, tap.weight1, count, slice.grad + tap.index1 * pitch + first);
    }
  }
}

}  // namespace

INSTSEG_CLONES void blend_attention_slopes(BlendInstance& it, const float* grad, float* wide_grad) {
  if (it.in.channels == 4) return attention_slopes<4>(it, grad, wide_grad);
  attention_slopes<0>(it, grad, wide_grad);
}

INSTSEG_CLONES void blend_bases_rows(BlendInstance& it, const float* grad, const RowSlice& slice) {
  if (it.in.channels == 4) return bases_rows<4>(it, grad, slice);
  bases_rows<0>(it, grad, slice);
}

void blend_attention_backward_cpu(const BlendInput& in, const float* grad, int64_t begin, int64_t end,
                                  float* grad_attention) {
  BlendInstance it(in);
  std::vector<float> wide_grad(it.wide.size());
  const int64_t values = in.channels * in.cells * in.cells;
  for (int64_t n = begin; n < end; ++n) {
    float* out = grad_attention + n * values;
    std::fill_n(out, values, 0.0f);
    if (!it.locate(n)) continue;
    std::fill(wide_grad.begin(), wide_grad.end(), 0.0f);
    blend_attention_slopes(it, grad + n * in.size * in.size, wide_grad.data());
    narrow(it, wide_grad.data(), out);
  }
}

void blend_row_work_cpu(const BlendInput& in, int64_t* work) {
  BlendInstance it(in);
  std::fill_n(work, in.images * in.height + 1, 0);
  for (int64_t n = 0; n < in.instances; ++n) {
    if (!it.locate(n)) continue;
    for (int64_t row = it.rows.begin; row < it.rows.end; ++row) {
      work[it.image * in.height + it.y[row].index0 + 1] += it.columns.end - it.columns.begin;
    }
  }
  for (int64_t row = 0; row < in.images * in.height; ++row) work[row + 1] += work[row];
}

void blend_bases_backward_cpu(const BlendInput& in, const float* grad, int64_t begin, int64_t end,
                              float* grad_bases) {
  BlendInstance it(in);
  for (int64_t n = 0; n < in.instances; ++n) {
    if (!it.locate(n)) continue;
    const int64_t top = it.image * in.height;  // of the rows through all images
    const RowSlice slice{begin - top, end - top, grad_bases + top * in.width * in.channels};
    const auto [low, high] = std::minmax(it.y[it.rows.begin].index0, it.y[it.rows.end - 1].index0);
    if (high + 1 < slice.begin || low >= slice.end) continue;
    blend_bases_rows(it, grad + n * in.size * in.size, slice);
  }
}

}  // namespace instseg::kernels
