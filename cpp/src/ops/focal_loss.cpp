// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/focal_loss.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/focal_loss.h"
#include "ops/checks.h"
#include "ops/cuda_stream.h"

namespace instseg {
namespace {

constexpr int64_t kGrain =
    1 << 15;  // entries per task; fixed, so the sum does not depend on the thread count

int64_t rows_per_task(int64_t classes) { return std::max<int64_t>(1, kGrain / classes); }

at::Tensor forward_cpu(const at::Tensor& logits, const at::Tensor& labels, kernels::FocalParams params) {
  const int64_t rows = logits.size(0), classes = logits.size(1), step = rows_per_task(classes);
  const auto kind = scalar_kind_of("sigmoid_focal_loss", "logits", logits);
  const int64_t* label = labels.const_data_ptr<int64_t>();
  std::vector<double> sums((rows + step - 1) / step);
  at::parallel_for(0, static_cast<int64_t>(sums.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      sums[i] = kernels::focal_loss_cpu(logits.const_data_ptr(), kind, label, i * step,
                                        std::min(rows, (i + 1) * step), classes, params);
    }
  });
  const double sum = std::accumulate(sums.begin(), sums.end(), 0.0);
  return at::scalar_tensor(sum, logits.options().dtype(at::kFloat));
}

at::Tensor forward_cuda(const at::Tensor& logits, const at::Tensor& labels, kernels::FocalParams params) {
  const c10::DeviceGuard guard(logits.device());
  const at::Tensor partials = at::empty({kernels::kFocalPartials}, logits.options().dtype(at::kDouble));
  kernels::focal_loss_cuda(logits.const_data_ptr(), scalar_kind_of("sigmoid_focal_loss", "logits", logits),
                           labels.const_data_ptr<int64_t>(), logits.size(0), logits.size(1), params,
                           partials.mutable_data_ptr<double>(), current_stream(logits));
  return partials.sum().to(at::kFloat);
}

at::Tensor forward(const at::Tensor& logits, const at::Tensor& labels, kernels::FocalParams params) {
  if (logits.numel() == 0) return at::zeros({}, logits.options().dtype(at::kFloat));
  return logits.is_cpu() ? forward_cpu(logits, labels, params) : forward_cuda(logits, labels, params);
}

at::Tensor backward(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& scale,
                    kernels::FocalParams params) {
  at::Tensor grad = at::empty_like(logits);
  if (logits.numel() == 0) return grad;
  const auto kind = scalar_kind_of("sigmoid_focal_loss", "logits", logits);
  const int64_t rows = logits.size(0), classes = logits.size(1);
  const int64_t* label = labels.const_data_ptr<int64_t>();
  if (logits.is_cuda()) {
    const c10::DeviceGuard guard(logits.device());
    const at::Tensor factor = scale.to(at::kFloat).contiguous();
    kernels::focal_loss_backward_cuda(logits.const_data_ptr(), kind, label, rows, classes, params,
                                      factor.const_data_ptr<float>(), grad.mutable_data_ptr(),
                                      current_stream(logits));
    return grad;
  }
  const float factor = scale.item<float>();
  void* out = grad.mutable_data_ptr();
  at::parallel_for(0, rows, rows_per_task(classes), [&](int64_t begin, int64_t end) {
    kernels::focal_loss_backward_cpu(logits.const_data_ptr(), kind, label, begin, end, classes, params,
                                     factor, out);
  });
  return grad;
}

// The backward pass computes the terms again: cheaper than keeping a gradient of the logits' size.
struct FocalLoss : torch::autograd::Function<FocalLoss> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& logits,
                            const at::Tensor& labels, double alpha, double gamma) {
    context->save_for_backward({logits, labels});
    context->saved_data["alpha"] = alpha;
    context->saved_data["gamma"] = gamma;
    return instseg::forward(logits, labels, {static_cast<float>(alpha), static_cast<float>(gamma)});
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const kernels::FocalParams params{static_cast<float>(context->saved_data["alpha"].toDouble()),
                                      static_cast<float>(context->saved_data["gamma"].toDouble())};
    return {instseg::backward(saved[0], saved[1], grads[0], params), at::Tensor(), at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

at::Tensor sigmoid_focal_loss(const at::Tensor& logits, const at::Tensor& labels, double alpha,
                              double gamma) {
  check_defined("sigmoid_focal_loss", "logits", logits);
  check<ValueError>(logits.dim() == 2 && logits.size(1) > 0, "[sigmoid_focal_loss] logits have shape ",
                    logits.sizes(), "; expected [N, C] with C >= 1");
  check_vector("sigmoid_focal_loss", "labels", labels, logits.size(0));
  scalar_kind_of("sigmoid_focal_loss", "logits", logits);
  check_dtype("sigmoid_focal_loss", "labels", labels, at::kLong);
  check_device("sigmoid_focal_loss", logits.device());
  check_same_device("sigmoid_focal_loss", "labels", labels, logits.device());
  check<ValueError>(alpha >= 0 && alpha <= 1, "[sigmoid_focal_loss] alpha is ", alpha,
                    "; use a value in 0..1");
  check<ValueError>(gamma >= 0, "[sigmoid_focal_loss] gamma is ", gamma, "; use a value >= 0");
  // Outside of the function, so that autograd undoes the copy.
  return FocalLoss::apply(logits.contiguous(), labels.contiguous(), alpha, gamma);
}

}  // namespace instseg
