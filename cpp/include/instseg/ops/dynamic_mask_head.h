// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace instseg {

/** Form of a dynamic mask head (Tian et al., CondInst, ECCV 2020, section 3; docs/ops.md). */
struct DynamicHead {
  int64_t depth = 3;                     // layers of 1x1 convolution, 1..8
  int64_t width = 8;                     // channels between them, 1..32
  std::string coordinates = "relative";  // inputs before the features: "relative", "absolute" or "none"
  int64_t stride = 8;                    // px of the network image per cell of the features

  /** Parameters of one instance for features of `channels`: all weights [out][in] by layer, then all biases.
   * Throws ValueError on a field out of range and where no input is left. */
  int64_t parameters(int64_t channels) const;
};

/**
 * Runs every instance's own mask head over the mask features of its image: ReLU between the layers, one logit
 * out, [N, H, W] float32. Relative coordinates are (location - pixel) / scale, absolute ones the pixel's
 * position scaled to -1..1; both are computed on the fly and come before the features (x, then y). One pass
 * over the features; forward and backward keep nothing of instances x channels x H x W. Differentiable by
 * features and parameters; deterministic; CPU and CUDA.
 *
 *   features    [B, C, H, W] float32, bfloat16 or float16, C 0..32
 *   parameters  [N, head.parameters(C)] float32
 *   images      [N] int64, 0..B-1; others are refused on the CPU and give NaN on CUDA
 *   locations   [N, 2] float32 x, y in network pixels
 *   scales      [N] float32 px, the size of interest of the instance's level
 *
 * Throws ValueError on other shapes, TypeError on other dtypes.
 */
at::Tensor dynamic_mask_head(const at::Tensor& features, const at::Tensor& parameters,
                             const at::Tensor& images, const at::Tensor& locations, const at::Tensor& scales,
                             const DynamicHead& head = {});

}  // namespace instseg
