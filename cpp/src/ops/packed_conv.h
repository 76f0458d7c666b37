// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <vector>

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
  int64_t dilation = 1;
};

/**
 * An inference-only convolution whose weight is reordered once for its dtype and input, with bias, residual
 * sum and activation fused where the backend can: y = activation(conv(x) + bias + residual). Channels-last
 * in, channels-last out. CPU: oneDNN; elsewhere the framework's convolution.
 */
class PackedConv {
 public:
  PackedConv() = default;
  /** weight [O, I/groups, k, k] and bias [O] float32 (bias may be undefined); `dtype` of the activations. */
  PackedConv(const at::Tensor& weight, const at::Tensor& bias, const ConvGeometry& geometry,
             Activation activation, at::ScalarType dtype);

  bool defined() const { return plain_.defined() || !packed_.empty(); }
  /** x [N, I, H, W] of the packed dtype. A defined `residual` of the output's shape is consumed
   * (overwritten). */
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& residual = {}) const;

 private:
  /** A weight reordered for one input shape. */
  struct Packed {
    std::array<int64_t, 3> shape;  // N, H, W of the input
    at::Tensor weight;
  };

  at::Tensor weight_for(const at::Tensor& x) const;

  at::Tensor bias_;
  mutable at::Tensor plain_;            // released once no other packing can be needed
  mutable std::vector<Packed> packed_;  // oldest first
  ConvGeometry geometry_;
  int64_t kernel_ = 1;
  Activation activation_ = Activation::none;
  bool onednn_ = false;
};

}  // namespace instseg
