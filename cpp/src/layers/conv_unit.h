// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>
#include <vector>

#include "layers/norm.h"
#include "ops/packed_conv.h"

namespace instseg {

/** A convolution, its norm and its activation. */
struct ConvOptions {
  int64_t in = 0;
  int64_t out = 0;
  int64_t kernel = 3;
  int64_t stride = 1;
  int64_t groups = 1;
  int64_t dilation = 1;
  bool bias = false;
  bool same_padding = false;  // TensorFlow "SAME"; false: dilation * (kernel / 2) on all sides
  NormOptions norm = {};      // channels are filled in
  int64_t norm_levels = 0;    // > 0: one norm per pyramid level, named norm.0, norm.1, ...
  Activation activation = Activation::none;
};

/**
 * conv -> norm -> (+ residual) -> activation, the unit every network here is made of. Parameters: weight
 * [O, I/groups, k, k], bias [O] if asked for, and the norm's below "norm". lower() replaces it by packed
 * convolutions.
 */
class ConvUnit : public torch::nn::Module {
 public:
  explicit ConvUnit(const ConvOptions& options);

  /** x [N, I, H, W]; `level` selects the norm of a per-level unit. A residual may be overwritten once
   * lowered. */
  at::Tensor forward(const at::Tensor& x, const at::Tensor& residual = {}, int64_t level = 0);

  /** Packs for inference in `dtype` and releases weight and bias. Norm statistics must be fixed (eval mode).
   */
  void lower(at::ScalarType dtype);

  const ConvOptions& options() const { return options_; }
  at::Tensor weight, bias;

 private:
  at::Tensor pad(const at::Tensor& x) const;
  at::Tensor convolve(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) const;
  at::Tensor finish(at::Tensor y, const at::Tensor& residual, Norm* norm) const;

  ConvOptions options_;
  std::vector<std::shared_ptr<Norm>> norms_;  // none, one, or one per level
  std::vector<PackedConv> packed_;            // one, or one per level
};

/** Lowers every ConvUnit below `root`. */
void lower_units(torch::nn::Module& root, at::ScalarType dtype);

}  // namespace instseg
