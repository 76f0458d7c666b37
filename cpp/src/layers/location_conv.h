// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <vector>

namespace instseg {

/**
 * A 3x3 convolution shared by pyramid levels that is evaluated only at chosen cells: CondInst's controller
 * and BlendMask's top layer. Parameters weight [O, C, 3, 3] and bias [O]; float32 also in lowered models.
 */
class LocationConv : public torch::nn::Module {
 public:
  LocationConv(int64_t in, int64_t out);

  /** maps [B, C, H_l, W_l] per level; levels, images, positions [M] int64 -> [M, O] float32. */
  at::Tensor forward(const std::vector<at::Tensor>& maps, const at::Tensor& levels, const at::Tensor& images,
                     const at::Tensor& positions) const;

  at::Tensor weight, bias;
};

}  // namespace instseg
