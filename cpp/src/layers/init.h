// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace instseg {

/** In-place initialisers of convolution weights [O, I/groups, k, k], drawn from torch's global generator. */
void init_he_normal_fan_out(at::Tensor& weight);   // std sqrt(2 / (k*k*O)), ResNet convolutions
void init_kaiming_uniform_a1(at::Tensor& weight);  // bound sqrt(3 / fan_in), FPN convolutions
void init_normal(at::Tensor& weight, double std);  // heads

/** Uniform within 1 / sqrt(fan_in), weight and bias: torch.nn.Conv2d's own. */
void init_default(at::Tensor& weight, at::Tensor& bias);

/** While alive, the initialisers on this thread do nothing: for models whose weights are loaded right after.
 */
class SkipInit {
 public:
  SkipInit();
  ~SkipInit();
  SkipInit(const SkipInit&) = delete;
  SkipInit& operator=(const SkipInit&) = delete;
};

}  // namespace instseg
