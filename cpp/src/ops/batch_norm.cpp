// SPDX-License-Identifier: Apache-2.0
#include "ops/batch_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/native_batch_norm_backward.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/var_mean.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

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

using Sum = std::function<at::Tensor(const at::Tensor&)>;

class BatchNormSync : public torch::autograd::Function<BatchNormSync> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias, at::Tensor running_mean, at::Tensor running_var,
                            double momentum, double eps, const Sum& sum) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const double own = static_cast<double>(x.size(0) * x.size(2) * x.size(3));
    const auto [own_variance, own_mean] = at::var_mean(x.to(at::kFloat), kOverPixels, /*correction=*/0.0);
    const auto mean64 = own_mean.to(at::kDouble);
    const auto second = own_variance.to(at::kDouble) + mean64.square();
    const auto counted = at::full({1}, own, mean64.options());
    const auto totals = sum(at::cat({counted, mean64 * own, second * own}));
    const int64_t channels = x.size(1);
    const auto count = totals.narrow(0, 0, 1);
    const auto mean = totals.narrow(0, 1, channels) / count;
    const auto variance = (totals.narrow(0, 1 + channels, channels) / count - mean.square()).clamp_min(0);
    const auto unbiased = variance * count / (count - 1).clamp_min(1);
    running_mean.mul_(1 - momentum).add_(mean.to(running_mean.dtype()), momentum);
    running_var.mul_(1 - momentum).add_(unbiased.to(running_var.dtype()), momentum);
    const auto scale = at::rsqrt(variance + eps).to(at::kFloat);
    ctx->save_for_backward({x, weight, mean.to(at::kFloat), scale, count});
    ctx->saved_data["sum"] = c10::IValue::make_capsule(c10::make_intrusive<SumHolder>(sum));
    const auto y = (x.to(at::kFloat) - per_channel(mean.to(at::kFloat))) * per_channel(scale * weight) +
                   per_channel(bias);
    return y.to(x.dtype());
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1], &mean = saved[2], &scale = saved[3], &count = saved[4];
    const auto holder = ctx->saved_data["sum"].toCapsule();
    const auto grad = grads[0].to(at::kFloat);
    const auto normal = (x.to(at::kFloat) - per_channel(mean)) * per_channel(scale);
    const auto grad_bias = grad.sum(kOverPixels), grad_weight = (grad * normal).sum(kOverPixels);
    const auto totals =
        static_cast<SumHolder*>(holder.get())->sum(at::cat({grad_bias, grad_weight}).to(at::kDouble));
    const auto means = (totals / count).to(at::kFloat);
    const int64_t channels = weight.size(0);
    const auto grad_x = (grad - per_channel(means.narrow(0, 0, channels)) -
                         normal * per_channel(means.narrow(0, channels, channels))) *
                        per_channel(scale * weight);
    return {grad_x.to(x.dtype()),
            grad_weight.to(weight.dtype()),
            grad_bias.to(weight.dtype()),
            {},
            {},
            {},
            {},
            {}};
  }

 private:
  struct SumHolder : torch::CustomClassHolder {
    explicit SumHolder(Sum function) : sum(std::move(function)) {}
    Sum sum;
  };
  static constexpr std::array<int64_t, 3> kOverPixels = {0, 2, 3};

  static at::Tensor per_channel(const at::Tensor& v) { return v.view({1, -1, 1, 1}); }
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

at::Tensor batch_norm_sync(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                           const at::Tensor& running_mean, const at::Tensor& running_var, double momentum,
                           double eps, const std::function<at::Tensor(const at::Tensor&)>& sum) {
  return BatchNormSync::apply(x, weight, bias, running_mean, running_var, momentum, eps, sum);
}

}  // namespace instseg
