// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

namespace instseg {

/** How a Norm treats its statistics. */
struct NormOptions {
  std::string kind =
      "none";  // "none", "gn", "bn", "bn_eval" (fixed statistics) or "frozen_bn" (nothing trained)
  int64_t channels = 0;
  int64_t groups = 32;  // of "gn"
  double eps = 1e-5;
  double momentum = 0.1;  // of "bn": weight of the new batch
};

/**
 * Normalisation of one [N, C, H, W] map. Parameters weight, bias [C]; batch-norm kinds add the buffers
 * running_mean, running_var and num_batches_tracked; "frozen_bn" keeps all four vectors as buffers.
 */
class Norm : public torch::nn::Module {
 public:
  explicit Norm(const NormOptions& options);

  at::Tensor forward(const at::Tensor& x);

  /** True when the norm is a fixed scale and shift per channel now, so that a convolution can absorb it. */
  bool is_affine() const;
  /** {scale, shift}, each [C] float32, with gradient where the affine part is trained. Only when is_affine().
   */
  std::pair<at::Tensor, at::Tensor> affine() const;

  /** Sums over the workers whose batches "bn" takes its statistics from in training; empty: own batch. */
  void set_sum(std::function<at::Tensor(const at::Tensor&)> sum) { sum_ = std::move(sum); }

  const NormOptions& options() const { return options_; }
  at::Tensor weight, bias, running_mean, running_var, num_batches_tracked;

 private:
  NormOptions options_;
  std::function<at::Tensor(const at::Tensor&)> sum_;
};

}  // namespace instseg
