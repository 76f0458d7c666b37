// SPDX-License-Identifier: Apache-2.0
#include "ops/batch_norm.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/native_batch_norm_backward.h>
#include <ATen/ops/rsqrt.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <tuple>

#include "kernels/channel_stats.h"

namespace instseg {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class BatchNormTrain : public torch::autograd::Function<BatchNormTrain> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias, at::Tensor running_mean, at::Tensor running_var,
                            double momentum, double eps) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const int64_t rows = x.size(0) * x.size(2) * x.size(3);
    auto mean = at::empty_like(weight), variance = at::empty_like(weight);
    kernels::channel_stats(x.const_data_ptr<float>(), rows, x.size(1), mean.mutable_data_ptr<float>(),
                           variance.mutable_data_ptr<float>());
    const double unbiased = static_cast<double>(rows) / static_cast<double>(std::max<int64_t>(rows - 1, 1));
    running_mean.mul_(1 - momentum).add_(mean, momentum);
    running_var.mul_(1 - momentum).add_(variance, momentum * unbiased);
    const auto y = std::get<0>(at::native_batch_norm(x, weight, bias, mean, variance, false, 0, eps));
    ctx->save_for_backward({x, weight, mean, at::rsqrt(at::add(variance, eps))});
    ctx->saved_data["eps"] = eps;
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto [grad_x, grad_weight, grad_bias] = at::native_batch_norm_backward(
        grads[0].contiguous(at::MemoryFormat::ChannelsLast), saved[0], saved[1], {}, {}, saved[2], saved[3],
        true, ctx->saved_data["eps"].toDouble(), {true, true, true});
    return {grad_x, grad_weight, grad_bias, {}, {}, {}, {}};
  }
};

}  // namespace

at::Tensor batch_norm_train(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                            const at::Tensor& running_mean, const at::Tensor& running_var, double momentum,
                            double eps) {
  const bool ours = x.is_cpu() && x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat &&
                    x.numel() > 0 && x.is_contiguous(at::MemoryFormat::ChannelsLast);
  if (ours) return BatchNormTrain::apply(x, weight, bias, running_mean, running_var, momentum, eps);
  return at::batch_norm(x, weight, bias, running_mean, running_var, true, momentum, eps, true);
}

}  // namespace instseg
