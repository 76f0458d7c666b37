// SPDX-License-Identifier: Apache-2.0
#include "layers/init.h"

#include <c10/core/GradMode.h>

#include <cmath>

namespace instseg {
namespace {

thread_local int skip_depth = 0;

}  // namespace

SkipInit::SkipInit() { ++skip_depth; }
SkipInit::~SkipInit() { --skip_depth; }

void init_normal(at::Tensor& weight, double std) {
  if (skip_depth > 0) return;
  const c10::AutoGradMode no_grad(false);
  weight.normal_(0, std);
}

void init_he_normal_fan_out(at::Tensor& weight) {
  const double fan_out = static_cast<double>(weight.size(0) * weight.size(2) * weight.size(3));
  init_normal(weight, std::sqrt(2.0 / fan_out));
}

void init_kaiming_uniform_a1(at::Tensor& weight) {
  if (skip_depth > 0) return;
  const c10::AutoGradMode no_grad(false);
  const double fan_in = static_cast<double>(weight.size(1) * weight.size(2) * weight.size(3));
  const double bound = std::sqrt(3.0 / fan_in);
  weight.uniform_(-bound, bound);
}

void init_default(at::Tensor& weight, at::Tensor& bias) {
  if (skip_depth > 0) return;
  const c10::AutoGradMode no_grad(false);
  const double fan_in = static_cast<double>(weight.size(1) * weight.size(2) * weight.size(3));
  const double bound = 1 / std::sqrt(fan_in);
  weight.uniform_(-bound, bound);
  bias.uniform_(-bound, bound);
}

}  // namespace instseg
