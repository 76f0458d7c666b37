// SPDX-License-Identifier: Apache-2.0
#include "kernels/dice_loss.h"

#include <algorithm>

#include "kernels/cpu_scalar.h"
#include "kernels/fast_math.h"
#include "kernels/isa.h"

namespace instseg::kernels {
namespace {

constexpr int64_t kBlock = 1024;  // pixels whose values are in the cache together
constexpr int kLanes = 16;        // running sums, so that loops vectorise without being reordered

[[gnu::always_inline]] inline float sigmoid(float x) {
  const float e = exp_negative(x < 0.0f ? -x : x);
  const float large = 1.0f / (1.0f + e);
  const float p = x < 0.0f ? e * large : large;
  return x == x ? p : x;  // NaN stays NaN, which e hides
}

}  // namespace

INSTSEG_CLONES void dice_sigmoid_block(float* values, int64_t n) {
  INSTSEG_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) values[i] = sigmoid(values[i]);
}

INSTSEG_CLONES void dice_sum_block(const float* __restrict p, const uint8_t* __restrict g, int64_t n,
                                   float* __restrict sums) {
  float overlap[kLanes] = {}, squares[kLanes] = {}, area[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) {
      const float mask = static_cast<float>(g[i + k]);
      overlap[k] += p[i + k] * mask;
      squares[k] += p[i + k] * p[i + k];
      area[k] += mask;
    }
  }
  for (int k = 0; i < n; ++i, ++k) {
    const float mask = static_cast<float>(g[i]);
    overlap[k] += p[i] * mask;
    squares[k] += p[i] * p[i];
    area[k] += mask;
  }
  sums[0] = sums[1] = sums[2] = 0;
  for (int k = 0; k < kLanes; ++k) {
    sums[0] += overlap[k];
    sums[1] += squares[k];
    sums[2] += area[k];
  }
}

INSTSEG_CLONES void dice_slope_block(float* __restrict p, const uint8_t* __restrict g, int64_t n, float by_p,
                                     float by_g, bool logits) {
  if (logits) {
    for (int64_t i = 0; i < n; ++i) {
      p[i] = (by_p * p[i] + by_g * static_cast<float>(g[i])) * (p[i] * (1.0f - p[i]));
    }
  } else {
    for (int64_t i = 0; i < n; ++i) p[i] = by_p * p[i] + by_g * static_cast<float>(g[i]);
  }
}

namespace {

/** Calls block(map, first pixel, pixels, probabilities, mask) for all pieces of maps begin..end-1. */
template <class T, class Block>
void for_blocks(const DiceInput& input, int64_t begin, int64_t end, const Block& block) {
  float values[kBlock];
  for (int64_t map = begin; map < end; ++map) {
    const T* source = static_cast<const T*>(input.values) + map * input.pixels;
    const uint8_t* mask = input.masks + (input.index ? input.index[map] : map) * input.pixels;
    for (int64_t first = 0; first < input.pixels; first += kBlock) {
      const int64_t n = std::min(kBlock, input.pixels - first);
      for (int64_t i = 0; i < n; ++i) values[i] = static_cast<float>(source[first + i]);
      if (input.logits) dice_sigmoid_block(values, n);
      block(map, first, n, values, mask + first);
    }
  }
}

}  // namespace

void dice_sums_cpu(const DiceInput& input, int64_t begin, int64_t end, float* sums) {
  for (int64_t map = begin; map < end; ++map) {
    double overlap = 0, total = 0;
    with_scalar(input.kind, [&]<class T>(T) {
      for_blocks<T>(input, map, map + 1, [&](int64_t, int64_t, int64_t n, float* p, const uint8_t* mask) {
        float part[3];
        dice_sum_block(p, mask, n, part);
        overlap += part[0];
        total += static_cast<double>(part[1]) + part[2];
      });
    });
    sums[2 * map] = static_cast<float>(overlap);
    sums[2 * map + 1] = static_cast<float>(total);
  }
}

void dice_backward_cpu(const DiceInput& input, const float* slopes, int64_t begin, int64_t end, void* grad) {
  with_scalar(input.kind, [&]<class T>(T) {
    for_blocks<T>(input, begin, end,
                  [&](int64_t map, int64_t first, int64_t n, float* p, const uint8_t* mask) {
                    dice_slope_block(p, mask, n, slopes[2 * map], slopes[2 * map + 1], input.logits);
                    T* target = static_cast<T*>(grad) + map * input.pixels + first;
                    for (int64_t i = 0; i < n; ++i) target[i] = static_cast<T>(p[i]);
                  });
  });
}

}  // namespace instseg::kernels
