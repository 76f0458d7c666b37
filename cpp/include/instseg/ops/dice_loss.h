// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace instseg {

/**
 * Dice loss of each map, [P] float32, with gradient to `maps`: 1 - 2 sum(p g) / (sum(p^2) + sum(g) + eps)
 * over all but the first dimension (Milletari et al., V-Net, 2016), g in {0, 1}.
 *
 * maps [P, ...] float32, bfloat16 or float16 (computed in float32): logits, p = sigmoid(maps), or with
 * `logits` false the probabilities p themselves;  masks [G, ...] uint8 or bool, 0 or 1, of the same inner
 * shape;  index [P] int64: the mask of each map; undefined: map i has mask i. Nothing of the maps' size is
 * allocated but their gradient. ValueError for shapes, eps <= 0 and indices outside 0..G-1 (on the CPU);
 * TypeError for dtypes. CPU and CUDA.
 */
at::Tensor dice_loss(const at::Tensor& maps, const at::Tensor& masks, const at::Tensor& index = {},
                     double eps = 1e-5, bool logits = true);

}  // namespace instseg
