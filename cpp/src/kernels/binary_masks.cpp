// SPDX-License-Identifier: Apache-2.0
#include "kernels/binary_masks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/isa.h"

namespace instseg::kernels {
namespace {

constexpr int64_t kWord = 64;
constexpr int64_t kLanes = 16;

// One word, and the probabilities inside added to `sums`.
[[gnu::always_inline]] inline uint64_t pack_word(const float* __restrict values, float threshold,
                                                 float* __restrict sums) {
  uint8_t inside[kWord];
  for (int64_t i = 0; i < kWord; ++i) inside[i] = values[i] > threshold ? 1 : 0;
  for (int64_t part = 0; part < kWord; part += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) sums[i] += values[part + i] > threshold ? values[part + i] : 0.0f;
  }
  uint64_t word = 0;
  for (int64_t i = 0; i < 8; ++i) {
    uint64_t bytes = 0;
    for (int64_t k = 0; k < 8; ++k) bytes |= static_cast<uint64_t>(inside[8 * i + k]) << 8 * k;
    word |= (bytes * 0x0102040810204080u >> 56) << 8 * i;  // byte k moves to bit 56 + k, free of carries
  }
  return word;
}

[[gnu::always_inline]] inline int64_t count_common(const uint64_t* a, const uint64_t* b, int64_t words) {
  int64_t count = 0;
  for (int64_t i = 0; i < words; ++i) count += std::popcount(a[i] & b[i]);
  return count;
}

}  // namespace

// Floats are added up in sixteen lanes over 256 pixels, then in double: the mass is exact to some 1e-7.
INSTSEG_CLONES MaskSums pack_mask_cpu(const float* probabilities, int64_t pixels, float threshold,
                                      uint64_t* bits) {
  constexpr int64_t kBlock = 4;
  const int64_t whole = pixels / kWord, rest = pixels % kWord;
  double mass[kLanes] = {};
  int64_t area = 0;
  for (int64_t block = 0; block < whole; block += kBlock) {
    float sums[kLanes] = {};
    for (int64_t w = block; w < std::min(block + kBlock, whole); ++w) {
      bits[w] = pack_word(probabilities + w * kWord, threshold, sums);
      area += std::popcount(bits[w]);
    }
    for (int64_t i = 0; i < kLanes; ++i) mass[i] += static_cast<double>(sums[i]);
  }
  if (rest != 0) {
    float values[kWord], sums[kLanes] = {};
    std::fill_n(values, kWord, -std::numeric_limits<float>::infinity());  // never inside
    std::copy_n(probabilities + whole * kWord, rest, values);
    bits[whole] = pack_word(values, threshold, sums);
    area += std::popcount(bits[whole]);
    for (int64_t i = 0; i < kLanes; ++i) mass[i] += static_cast<double>(sums[i]);
  }
  double total = 0;
  for (double lane : mass) total += lane;
  return {area, total};
}

INSTSEG_VECTOR_POPCOUNT int64_t count_common_vector(const uint64_t* a, const uint64_t* b, int64_t words) {
  return count_common(a, b, words);
}

INSTSEG_CLONES int64_t count_common_scalar(const uint64_t* a, const uint64_t* b, int64_t words) {
  return count_common(a, b, words);
}

// Positive floats are ordered as their bits: a maximum of integers vectorises, one of floats does not.
INSTSEG_CLONES float largest_iou(const float* iou, int64_t n) {
  int32_t best = 0;
  for (int64_t i = 0; i < n; ++i) best = std::max(best, std::bit_cast<int32_t>(iou[i]));
  return std::bit_cast<float>(best);
}

// min over i of exp(-sigma iou²) / exp(-sigma c²) needs one exponential, that of the largest iou² - c².
INSTSEG_CLONES_NO_FMA float largest_excess(const float* iou, const float* compensation, int64_t n) {
  int32_t best = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float excess = iou[i] * iou[i] - compensation[i] * compensation[i];
    best = std::max(best, std::bit_cast<int32_t>(excess));
  }
  return std::bit_cast<float>(best);
}

INSTSEG_CLONES_NO_FMA float smallest_ratio(const float* iou, const float* compensation, int64_t n) {
  int32_t best = std::bit_cast<int32_t>(1.0f);
  for (int64_t i = 0; i < n; ++i) {
    const float left = 1.0f - iou[i], ratio = left / (1.0f - compensation[i]);
    best = std::min(best, std::bit_cast<int32_t>(left > 0.0f ? ratio : 0.0f));  // 0 / 0 counts as 0
  }
  return std::bit_cast<float>(best);
}

namespace {

using CountCommon = int64_t (*)(const uint64_t*, const uint64_t*, int64_t);

CountCommon fastest_count() { return has_vector_popcount() ? count_common_vector : count_common_scalar; }

// Masks that share no word cost nothing.
float pair_iou(CountCommon count, const PackedView& a, int64_t i, const PackedView& b, int64_t j) {
  const int64_t first = std::max(a.used[i].first, b.used[j].first);
  const int64_t last = std::min(a.used[i].last, b.used[j].last);
  if (first >= last) return 0.0f;
  const int64_t common = count(a.bits + i * a.words + first, b.bits + j * b.words + first, last - first);
  if (common == 0) return 0.0f;
  return static_cast<float>(common) / static_cast<float>(a.areas[i] + b.areas[j] - common);
}

}  // namespace

WordRange used_words_cpu(const uint64_t* bits, int64_t words) {
  int64_t first = 0, last = words;
  while (first < words && bits[first] == 0) ++first;
  while (last > first && bits[last - 1] == 0) --last;
  return {first, last};
}

void iou_tile_cpu(const PackedView& a, const PackedView& b, const PairTile& tile, int64_t columns,
                  float* iou) {
  const CountCommon count = fastest_count();
  for (int64_t i = tile.row; i < tile.row_end; ++i) {
    for (int64_t j = tile.column; j < tile.column_end; ++j)
      iou[i * columns + j] = pair_iou(count, a, i, b, j);
  }
}

void iou_triangle_cpu(const PackedView& masks, const int64_t* members, const PairTile& tile, float* iou) {
  const CountCommon count = fastest_count();
  for (int64_t i = tile.row; i < tile.row_end; ++i) {
    for (int64_t j = std::max(tile.column, i + 1); j < tile.column_end; ++j) {
      iou[pair_count(j) + i] = pair_iou(count, masks, members[i], masks, members[j]);
    }
  }
}

// Masks of other labels have IoU 0 and give at least 1; the first mask of all gives at most 1: the minimum
// starts at 1.
void decay_scores_cpu(const float* iou, const int64_t* members, int64_t n, DecayRule rule,
                      const float* scores, float* result) {
  std::vector<float> compensation(n);
  for (int64_t j = 0; j < n; ++j) {
    const float* column = iou + pair_count(j);
    compensation[j] = largest_iou(column, j);
    const float decay = rule.kernel == DecayKernel::gaussian
                            ? std::exp(-rule.sigma * largest_excess(column, compensation.data(), j))
                            : smallest_ratio(column, compensation.data(), j);
    result[members[j]] = scores[members[j]] * decay;
  }
}

void suppress_masks_cpu(const PackedView& masks, const int64_t* members, int64_t i, int64_t begin,
                        int64_t end, float iou_threshold, char* dead) {
  const CountCommon count = fastest_count();
  for (int64_t j = begin; j < end; ++j) {
    if (!dead[j] && pair_iou(count, masks, members[i], masks, members[j]) > iou_threshold) dead[j] = 1;
  }
}

}  // namespace instseg::kernels
