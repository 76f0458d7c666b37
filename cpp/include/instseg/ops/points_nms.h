// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace instseg {

/** Cells of a category grid with a class above a threshold: what masks are made for. */
struct GridCandidates {
  at::Tensor cells;   // [M] int64, row * W + column, ascending
  at::Tensor labels;  // [M] int64, ascending within a cell
  at::Tensor scores;  // [M] float32 probabilities
};

/**
 * Points NMS and threshold in one pass over class logits [C, H, W] (float32; H = W = S in SOLO): a
 * probability stays when it is > `threshold` (0..1) and no smaller than those of the cells above, to the left
 * and above-left (Wang et al., SOLOv2; docs/ops.md). A NaN is no candidate and lets no candidate be below or
 * right of it. Channels-last maps are read in place. CPU and CUDA. Throws ValueError and TypeError.
 */
GridCandidates points_nms(const at::Tensor& logits, double threshold);

}  // namespace instseg
