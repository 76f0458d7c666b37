// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "instseg/config.h"
#include "instseg/instances.h"
#include "instseg/ops/locations.h"

namespace instseg {

/** Head outputs of one pyramid level for a batch, any memory format, float32 / bfloat16 / float16. */
struct FcosLevel {
  at::Tensor logits;      // [B, C, H, W]
  at::Tensor reg;         // [B, 4, H, W] l, t, r, b >= 0, in units of `unit`
  at::Tensor centerness;  // [B, 1, H, W] logit
  LocationGrid grid;
  double unit = 1;  // px per regression unit
};

/** Candidates of one image before NMS, levels concatenated. */
struct FcosCandidates {
  at::Tensor boxes;      // [M, 4] float32, network pixels
  at::Tensor scores;     // [M] float32
  at::Tensor labels;     // [M] int64
  at::Tensor levels;     // [M] int64, index into the levels
  at::Tensor positions;  // [M] int64, row*W + column within the level
};

/**
 * Thresholds, ranks and decodes every level (FCOS section 3; docs/models.md, "FCOS inference"): at most
 * post.topk_per_level candidates per level and image. `sizes` [B] bounds the boxes when post.clip_before_nms.
 * One pass over the logits; nothing of the logits' size is allocated on the CPU. CPU and CUDA.
 */
std::vector<FcosCandidates> fcos_decode(const std::vector<FcosLevel>& levels, const PostConfig& post,
                                        const std::vector<ImageSize>& sizes);

}  // namespace instseg
