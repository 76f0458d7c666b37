// SPDX-License-Identifier: Apache-2.0
#include "layers/location_conv.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "instseg/ops/conv_at.h"
#include "layers/init.h"

namespace instseg {

LocationConv::LocationConv(int64_t in, int64_t out) {
  weight = register_parameter("weight", at::empty({out, in, 3, 3}));
  bias = register_parameter("bias", at::zeros({out}));
  init_normal(weight, 0.01);
}

at::Tensor LocationConv::forward(const std::vector<at::Tensor>& maps, const at::Tensor& levels,
                                 const at::Tensor& images, const at::Tensor& positions) const {
  return conv_at(maps, weight, bias, levels, images, positions);
}

}  // namespace instseg
