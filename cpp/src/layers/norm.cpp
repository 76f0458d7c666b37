// SPDX-License-Identifier: Apache-2.0
#include "layers/norm.h"

#include <ATen/ops/batch_norm.h>
#include <ATen/ops/full.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/zeros.h>

#include "instseg/error.h"
#include "ops/batch_norm.h"

namespace instseg {

Norm::Norm(const NormOptions& options) : options_(options) {
  const auto& kind = options_.kind;
  const int64_t channels = options_.channels;
  check<ValueError>(kind != "gn" || channels % options_.groups == 0, "[Norm] ", channels,
                    " channels cannot be split into ", options_.groups,
                    " groups; choose another norm or width");
  if (kind == "frozen_bn") {
    weight = register_buffer("weight", at::ones({channels}));
    bias = register_buffer("bias", at::zeros({channels}));
    running_mean = register_buffer("running_mean", at::zeros({channels}));
    running_var = register_buffer("running_var", at::full({channels}, 1.0 - options_.eps));  // exact identity
    return;
  }
  weight = register_parameter("weight", at::ones({channels}));
  bias = register_parameter("bias", at::zeros({channels}));
  if (kind == "gn") return;
  running_mean = register_buffer("running_mean", at::zeros({channels}));
  running_var = register_buffer("running_var", at::ones({channels}));
  num_batches_tracked = register_buffer("num_batches_tracked", at::zeros({}, at::kLong));
}

bool Norm::is_affine() const {
  return options_.kind == "frozen_bn" || options_.kind == "bn_eval" ||
         (options_.kind == "bn" && !is_training());
}

std::pair<at::Tensor, at::Tensor> Norm::affine() const {
  const auto scale = weight * at::rsqrt(running_var + options_.eps);
  return {scale, bias - running_mean * scale};
}

at::Tensor Norm::forward(const at::Tensor& x) {
  if (options_.kind == "gn") {
    if (x.is_cpu()) return at::group_norm(x, options_.groups, weight, bias, options_.eps);
    // CUDA's kernel takes one dtype and forgets the memory format.
    return at::group_norm(x, options_.groups, weight.to(x.dtype()), bias.to(x.dtype()), options_.eps)
        .contiguous(x.suggest_memory_format());
  }
  if (options_.kind == "bn" && is_training()) {
    num_batches_tracked.add_(1);
    if (sum_) {
      return batch_norm_sync(x, weight, bias, running_mean, running_var, options_.momentum, options_.eps,
                             sum_);
    }
    return batch_norm_train(x, weight, bias, running_mean, running_var, options_.momentum, options_.eps);
  }
  return at::batch_norm(x, weight, bias, running_mean, running_var, false, options_.momentum, options_.eps,
                        true);
}

}  // namespace instseg
