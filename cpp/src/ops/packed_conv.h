// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace instseg {

/** Elementwise function after a convolution. */
enum class Activation { none, relu, relu6 };

/** Applies `activation` in place and returns `x`. */
at::Tensor activate_(at::Tensor x, Activation activation);

/** Geometry of a convolution with square kernel, stride and padding. */
struct ConvGeometry {
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t groups = 1;
};

/**
 * An inference-only convolution whose weight was reordered once for its dtype, with bias, residual sum and
 * activation fused where the backend can: y = activation(conv(x) + bias + residual). Channels-last in,
 * channels-last out. CPU: oneDNN; elsewhere the framework's convolution.
 */
class PackedConv {
 public:
  PackedConv() = default;
  /** weight [O, I/groups, k, k] and bias [O] float32 (bias may be undefined); `dtype` of the activations. */
  PackedConv(const at::Tensor& weight, const at::Tensor& bias, const ConvGeometry& geometry,
             Activation activation, at::ScalarType dtype);

  bool defined() const { return weight_.defined(); }
  /** x [N, I, H, W] of the packed dtype. A defined `residual` of the output's shape is consumed
   * (overwritten). */
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& residual = {}) const;

 private:
  at::Tensor weight_, bias_;
  ConvGeometry geometry_;
  Activation activation_ = Activation::none;
  bool onednn_ = false;
};

}  // namespace instseg
