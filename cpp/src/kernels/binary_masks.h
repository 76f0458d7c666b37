// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace instseg::kernels {

/** Words of 64 pixels in a mask. */
constexpr int64_t mask_words(int64_t pixels) { return (pixels + 63) / 64; }

/** Area and sum of the probabilities inside. */
struct MaskSums {
  int64_t area;
  double mass;
};

/** Packs one mask of `pixels` probabilities; inside is > `threshold`. Writes bits [mask_words(pixels)]. */
MaskSums pack_mask_cpu(const float* probabilities, int64_t pixels, float threshold, uint64_t* bits);

/** The words first..last-1 of a mask hold all of its pixels. */
struct WordRange {
  int64_t first, last;
};

WordRange used_words_cpu(const uint64_t* bits, int64_t words);

/** Masks of `words` words each. `used` is not read by the CUDA launchers. */
struct PackedView {
  const uint64_t* bits;
  const int64_t* areas;
  const WordRange* used;
  int64_t words;
};

/** Rows and columns of a matrix of pairs. */
struct PairTile {
  int64_t row, row_end, column, column_end;
};

/** Masks in a row or column of a tile: that many stay in the cache. */
constexpr int64_t kPairTile = 32;

/** IoU of row i of `a` and row j of `b` for the pairs of a tile: iou[i * columns + j]; 0 for empty masks. */
void iou_tile_cpu(const PackedView& a, const PackedView& b, const PairTile& tile, int64_t columns,
                  float* iou);

/** Pairs i < j of n masks. */
constexpr int64_t pair_count(int64_t n) { return n * (n - 1) / 2; }

/** IoU of masks members[i] and members[j], i < j, for the pairs of a tile: iou[pair_count(j) + i]. */
void iou_triangle_cpu(const PackedView& masks, const int64_t* members, const PairTile& tile, float* iou);

enum class DecayKernel : int { gaussian, linear };

struct DecayRule {
  DecayKernel kernel;
  float sigma;  // of the gaussian
};

/**
 * Scores after matrix NMS of n masks of one label by descending score: `iou` as iou_triangle_cpu writes it,
 * result[members[j]] = scores[members[j]] * decay.
 */
void decay_scores_cpu(const float* iou, const int64_t* members, int64_t n, DecayRule rule,
                      const float* scores, float* result);

/** Marks those of the masks members[begin..end-1] whose IoU with mask members[i] is above the threshold. */
void suppress_masks_cpu(const PackedView& masks, const int64_t* members, int64_t i, int64_t begin,
                        int64_t end, float iou_threshold, char* dead);

/** GPU: packs n masks, `stride` probabilities apart: bits [n, words], areas [n], mass [n]. */
void pack_masks_cuda(const float* probabilities, int64_t n, int64_t pixels, int64_t stride, float threshold,
                     uint64_t* bits, int64_t* areas, float* mass, void* stream);

/** GPU: IoU of every pair, [n, m]. */
void mask_iou_cuda(const PackedView& a, int64_t n, const PackedView& b, int64_t m, float* iou, void* stream);

/** GPU: IoU [n, n] of the pairs i < j; 0 for different labels. The rest is left as it is. */
void iou_triangle_cuda(const PackedView& masks, const int64_t* labels, int64_t n, float* iou, void* stream);

/** GPU: scores after matrix NMS, `iou` as iou_triangle_cuda writes it; `largest` [n] is scratch. */
void decay_scores_cuda(const float* iou, int64_t n, DecayRule rule, const float* scores, float* largest,
                       float* result, void* stream);

/** GPU: bit j % 64 of overlaps[i, j / 64] says that pair i < j has an IoU above the threshold. `overlaps`
 * [n, mask_words(n)], as nms_pick_cuda reads it; `iou` as iou_triangle_cuda writes it. */
void mark_overlaps_cuda(const float* iou, int64_t n, float iou_threshold, uint64_t* overlaps, void* stream);

}  // namespace instseg::kernels
