// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace instseg {

/**
 * Convolution with a 3x3 kernel, stride and padding 1, whose gradients by the input and the weight are
 * computed by Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, CVPR 2016): 16 products where the
 * direct form needs 36. The forward pass is the direct form, so that losses do not depend on it.
 *
 * x [N, C, H, W], weight [O, C, 3, 3] and bias [O] (may be undefined), float32 on the CPU. The result
 * [N, O, H, W] lies in channels-last memory. ValueError for other shapes and devices, TypeError for dtypes.
 */
at::Tensor winograd_conv(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

/**
 * Whether winograd_conv is the faster way to train a convolution with this input and weight: float32
 * channels-last maps on the CPU outside of autocast, wide enough, with enough pixels, of which a gradient is
 * wanted.
 */
bool winograd_pays(const at::Tensor& x, const at::Tensor& weight);

}  // namespace instseg
