// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace instseg {

/**
 * BlendMask's blender (Chen et al., BlendMask, CVPR 2020, section 3.2; docs/ops.md): the bases in each box
 * (aligned RoIAlign, one sample a bin), weighted by the softmax over the bases of the attention maps,
 * enlarged bilinearly from M to `size`; one pass, nothing of N x K x size x size in memory. Returns logits
 * [N, size, size] float32. Differentiable by bases and attention; CPU and CUDA.
 *
 *   bases      [B, K, H, W] float32, bfloat16 or float16
 *   boxes      [N, 4] float32 x1, y1, x2, y2 in network pixels
 *   images     [N] int64, 0..B-1
 *   attention  [N, K*M*M] float32, basis first, then row, then column
 *
 * `spatial_scale`: cells of the bases per network pixel. Throws ValueError on other shapes, TypeError on
 * other dtypes.
 */
at::Tensor blend(const at::Tensor& bases, const at::Tensor& boxes, const at::Tensor& images,
                 const at::Tensor& attention, int64_t attention_size = 14, int64_t size = 56,
                 double spatial_scale = 0.25);

}  // namespace instseg
