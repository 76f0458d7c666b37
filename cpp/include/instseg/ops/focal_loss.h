// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace instseg {

/**
 * Sum over all entries of the sigmoid focal loss (Lin et al. 2017, RetinaNet, section 3), with gradient.
 *
 * logits [N, C] float32, bfloat16 or float16 (computed in float32);  labels [N] int64: the positive class of
 * each row; any value outside 0..C-1 means background. Returns a float32 scalar. CPU and CUDA.
 */
at::Tensor sigmoid_focal_loss(const at::Tensor& logits, const at::Tensor& labels, double alpha = 0.25,
                              double gamma = 2.0);

}  // namespace instseg
