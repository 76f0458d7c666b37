// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace instseg {

/**
 * Focal loss of a class map, summed and divided by the pixels with a class (at least 1). logits [B, C, h, w];
 * labels [B, h, w] int64, -1 where there is no class. (CondInst's semantic task, docs/models.md.)
 */
at::Tensor semantic_focal_loss(const at::Tensor& logits, const at::Tensor& labels, double alpha,
                               double gamma);

}  // namespace instseg
