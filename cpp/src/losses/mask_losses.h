// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace instseg {

/**
 * Dice loss of each mask, [P]: 1 - 2 sum(p g) / (sum(p^2) + sum(g^2) + eps) over all but the first dimension
 * (Milletari et al., V-Net, 2016, as CondInst uses it). probabilities [P, ...] float32; targets of the same
 * shape, 0 or 1.
 */
at::Tensor dice_loss(const at::Tensor& probabilities, const at::Tensor& targets, double eps);

/** Mean of [P] over P, 0 when there are none; attached to the graph either way. */
at::Tensor mean_or_zero(const at::Tensor& values);

/**
 * Focal loss of a class map, summed and divided by the pixels with a class (at least 1). logits [B, C, h, w];
 * labels [B, h, w] int64, -1 where there is no class. (CondInst's semantic task, docs/models.md.)
 */
at::Tensor semantic_focal_loss(const at::Tensor& logits, const at::Tensor& labels, double alpha,
                               double gamma);

}  // namespace instseg
