// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace instseg {

/** N binary masks of one size as bits, and sums over them (docs/ops.md). All on one device. */
struct PackedMasks {
  at::Tensor bits;   // [N, ceil(h * w / 64)] int64: pixel i is bit i % 64 of word i / 64; spare bits are 0
  at::Tensor areas;  // [N] int64 pixels inside
  at::Tensor mass;   // [N] float32 sum of the probabilities inside

  int64_t size() const { return areas.defined() ? areas.size(0) : 0; }
  /** Masks at `index` [M] int64, in that order; an index may come twice. */
  PackedMasks select(const at::Tensor& index) const;
};

/**
 * Thresholds probabilities [N, h, w] (float32, inside is > `threshold`; NaN is outside), packs them and sums
 * them, in one pass. CPU and CUDA. Throws ValueError and TypeError on other inputs.
 */
PackedMasks pack_masks(const at::Tensor& probabilities, double threshold = 0.5);

/** Intersection over union of every pair, [N, M] float32; 0 for two empty masks. CPU and CUDA. */
at::Tensor mask_iou(const PackedMasks& a, const PackedMasks& b);

/**
 * Scores after matrix NMS (Wang et al., SOLOv2, NeurIPS 2020, section 3.3; docs/ops.md), [N] float32. Masks
 * must come in order of descending `scores` [N] float32, which is checked on the CPU (ValueError); only masks
 * of the same label [N] int64 act on one another. `kernel`: "gaussian" (sharpness `sigma`) or "linear". CPU
 * and CUDA.
 */
at::Tensor matrix_nms(const PackedMasks& masks, const at::Tensor& scores, const at::Tensor& labels,
                      const std::string& kernel = "gaussian", double sigma = 2.0);

/**
 * Greedy NMS on masks: indices kept, in order of descending `scores` [N] float32 (ties by index, NaN last),
 * [K] int64. A mask goes when a better one that stays has its label [N] int64 and an IoU above
 * `iou_threshold` with it. CPU and CUDA.
 */
at::Tensor mask_nms(const PackedMasks& masks, const at::Tensor& scores, const at::Tensor& labels,
                    double iou_threshold);

}  // namespace instseg
