// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/box_loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "kernels/box_loss.h"
#include "ops/checks.h"
#include "ops/cuda_stream.h"

namespace instseg {
namespace {

kernels::BoxLossKind parse_kind(const std::string& kind) {
  if (kind == "iou") return kernels::BoxLossKind::iou;
  if (kind == "linear_iou") return kernels::BoxLossKind::linear_iou;
  check<ValueError>(kind == "giou", "[box_loss] kind '", kind, "' is not one of giou, iou, linear_iou");
  return kernels::BoxLossKind::giou;
}

void check_pairs(const char* function, const at::Tensor& pred, const at::Tensor& target, double smoothing) {
  check_rows_of_four(function, "pred", pred);
  check_rows_of_four(function, "target", target);
  check<ValueError>(pred.size(0) == target.size(0), "[", function, "] pred has ", pred.size(0),
                    " rows, target ", target.size(0), "; they are pairs");
  scalar_kind_of(function, "pred", pred);
  scalar_kind_of(function, "target", target);
  check_device(function, pred.device());
  check_same_device(function, "target", target, pred.device());
  check<ValueError>(smoothing >= 0, "[", function, "] smoothing is ", smoothing, "; use a value >= 0");
}

at::Tensor plain_float(const at::Tensor& tensor) { return tensor.detach().to(at::kFloat).contiguous(); }

// Loss and, when `grad` is defined, its gradient by pred in one pass: there are few pairs.
at::Tensor run(const at::Tensor& pred, const at::Tensor& target, const at::Tensor& weight,
               kernels::BoxLossParams params, const at::Tensor& grad) {
  const int64_t n = pred.size(0);
  const float* weights = weight.defined() ? weight.const_data_ptr<float>() : nullptr;
  float* slopes = grad.defined() ? grad.mutable_data_ptr<float>() : nullptr;
  if (pred.is_cpu()) {
    const double sum = kernels::box_loss_cpu(pred.const_data_ptr<float>(), target.const_data_ptr<float>(),
                                             weights, n, params, slopes);
    return at::scalar_tensor(sum, pred.options());
  }
  const c10::DeviceGuard guard(pred.device());
  const at::Tensor losses = at::empty({n}, pred.options().dtype(at::kDouble));
  kernels::box_loss_cuda(pred.const_data_ptr<float>(), target.const_data_ptr<float>(), weights, n, params,
                         losses.mutable_data_ptr<double>(), slopes, current_stream(pred));
  return losses.sum().to(at::kFloat);
}

struct BoxLoss : torch::autograd::Function<BoxLoss> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& pred,
                            const at::Tensor& target, const std::optional<at::Tensor>& weight, int64_t kind,
                            double smoothing) {
    const at::Tensor plain = plain_float(pred);
    const at::Tensor grad = pred.requires_grad() ? at::empty(plain.sizes(), plain.options()) : at::Tensor();
    if (grad.defined()) context->save_for_backward({grad});
    context->saved_data["dtype"] = pred.scalar_type();
    const kernels::BoxLossParams params{static_cast<kernels::BoxLossKind>(kind), smoothing};
    return run(plain, plain_float(target), weight ? plain_float(*weight) : at::Tensor(), params, grad);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const at::Tensor grad = context->get_saved_variables()[0];
    return {(grad * grads[0]).to(context->saved_data["dtype"].toScalarType()), at::Tensor(), at::Tensor(),
            at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor box_loss(const at::Tensor& pred, const at::Tensor& target, const at::Tensor& weight,
                    const std::string& kind, double smoothing) {
  check_pairs("box_loss", pred, target, smoothing);
  if (weight.defined()) {
    check_vector("box_loss", "weight", weight, pred.size(0));
    scalar_kind_of("box_loss", "weight", weight);
    check_same_device("box_loss", "weight", weight, pred.device());
  }
  // An undefined tensor is no argument of an autograd function; only pred gets a gradient.
  const auto weights = weight.defined() ? std::optional<at::Tensor>(weight.detach()) : std::nullopt;
  return BoxLoss::apply(pred, target.detach(), weights, static_cast<int64_t>(parse_kind(kind)), smoothing);
}

at::Tensor box_iou(const at::Tensor& pred, const at::Tensor& target, double smoothing) {
  check_pairs("box_iou", pred, target, smoothing);
  const at::Tensor p = plain_float(pred), t = plain_float(target);
  const int64_t n = p.size(0);
  at::Tensor iou = at::empty({n}, p.options());
  if (p.is_cpu()) {
    kernels::box_iou_cpu(p.const_data_ptr<float>(), t.const_data_ptr<float>(), n, smoothing,
                         iou.mutable_data_ptr<float>());
  } else {
    const c10::DeviceGuard guard(p.device());
    kernels::box_iou_cuda(p.const_data_ptr<float>(), t.const_data_ptr<float>(), n, smoothing,
                          iou.mutable_data_ptr<float>(), current_stream(p));
  }
  return iou;
}

}  // namespace instseg
