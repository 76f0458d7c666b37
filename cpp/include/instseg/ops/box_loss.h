// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace instseg {

/**
 * Weighted sum of box regression losses on distances to the four sides, with gradient to `pred`.
 *
 * pred, target [P, 4] l, t, r, b (same unit);  weight [P] or undefined (all ones).
 * IoU = (I + s) / (U + s) with s = `smoothing`; kind "iou": -log IoU, "linear_iou": 1 - IoU,
 * "giou": 1 - IoU + (A - U) / A with the enclosing area A (docs/ops.md, "box_loss").
 * s = 0 uses 1e-7 in both denominators, as torchvision does. Returns a float32 scalar. CPU and CUDA.
 */
at::Tensor box_loss(const at::Tensor& pred, const at::Tensor& target, const at::Tensor& weight,
                    const std::string& kind = "giou", double smoothing = 1.0);

/** Smoothed IoU of each pair, [P] float32, without gradient. */
at::Tensor box_iou(const at::Tensor& pred, const at::Tensor& target, double smoothing = 1.0);

}  // namespace instseg
