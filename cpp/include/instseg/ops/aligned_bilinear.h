// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace instseg {

/**
 * CondInst's enlargement of x [N, C, H, W] or [N, H, W] by an integer factor f: output index j is the linear
 * interpolation of the input at max(0, j - f/2) / f, the last sample repeated beyond the end (docs/ops.md).
 * float32, bfloat16 or float16; the memory format is kept; differentiable; CPU and CUDA. Throws ValueError on
 * a factor below 1 and on empty maps, TypeError on other dtypes.
 */
at::Tensor aligned_bilinear(const at::Tensor& x, int64_t factor);

}  // namespace instseg
