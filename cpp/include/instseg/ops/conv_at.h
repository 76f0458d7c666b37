// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace instseg {

/**
 * A 3x3 convolution (stride 1, zero padding 1) shared by the levels of a pyramid, evaluated at M cells only:
 * what costs whole maps of O channels elsewhere costs M rows here. Returns [M, O] float32, computed in
 * float32. Differentiable by maps, weight and bias, also for M = 0: every one of them takes part. CPU and
 * CUDA, which is never waited for. Channels-last maps are read in place, others are copied.
 *
 *   maps       per level [B, C, H, W], float32, bfloat16 or float16
 *   weight     [O, C, 3, 3] float32
 *   bias       [O] float32
 *   levels     [M] int64, index into `maps`
 *   images     [M] int64, 0..B-1
 *   positions  [M] int64, row*W + column within the level
 *
 * Throws ValueError on other shapes and, on the CPU, on cells outside of the maps; TypeError on other dtypes.
 */
at::Tensor conv_at(const std::vector<at::Tensor>& maps, const at::Tensor& weight, const at::Tensor& bias,
                   const at::Tensor& levels, const at::Tensor& images, const at::Tensor& positions);

}  // namespace instseg
