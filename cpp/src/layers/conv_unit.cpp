// SPDX-License-Identifier: Apache-2.0
#include "layers/conv_unit.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <optional>
#include <string>

#include "instseg/error.h"
#include "ops/winograd_conv.h"

namespace instseg {
namespace {

/** Anonymous parent of per-level norms, so that their names are norm.0.weight, norm.1.weight, ... */
class NormList : public torch::nn::Module {};

/** Weight and bias of a convolution followed by an affine norm. */
std::pair<at::Tensor, at::Tensor> fold(const at::Tensor& weight, const at::Tensor& bias, const Norm& norm) {
  const auto [scale, shift] = norm.affine();
  return {weight * scale.view({-1, 1, 1, 1}), bias.defined() ? shift + bias * scale : shift};
}

std::optional<at::Tensor> optional_of(const at::Tensor& t) {
  return t.defined() ? std::optional<at::Tensor>(t) : std::nullopt;
}

}  // namespace

ConvUnit::ConvUnit(const ConvOptions& options) : options_(options) {
  const auto& o = options_;
  weight = register_parameter("weight", at::empty({o.out, o.in / o.groups, o.kernel, o.kernel}));
  if (o.bias) bias = register_parameter("bias", at::zeros({o.out}));
  options_.norm.channels = o.out;
  if (o.norm.kind == "none") return;
  if (o.norm_levels == 0) {
    norms_.push_back(register_module("norm", std::make_shared<Norm>(options_.norm)));
    return;
  }
  const auto list = register_module("norm", std::make_shared<NormList>());
  for (int64_t level = 0; level < o.norm_levels; ++level) {
    norms_.push_back(list->register_module(std::to_string(level), std::make_shared<Norm>(options_.norm)));
  }
}

at::Tensor ConvUnit::pad(const at::Tensor& x) const {
  const auto total = [&](int64_t n) {
    const int64_t o = (n + options_.stride - 1) / options_.stride;
    return std::max<int64_t>((o - 1) * options_.stride + options_.kernel - n, 0);
  };
  const int64_t h = total(x.size(2)), w = total(x.size(3));
  return at::constant_pad_nd(x, {w / 2, w - w / 2, h / 2, h - h / 2});
}

at::Tensor ConvUnit::convolve(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) const {
  const auto& o = options_;
  const bool same = o.same_padding && o.stride > 1;
  if (o.kernel == 3 && o.stride == 1 && o.dilation == 1 && o.groups == 1 && winograd_pays(x, w)) {
    return winograd_conv(x, w, b);
  }
  const int64_t padding = same ? 0 : o.dilation * (o.kernel / 2);
  return at::conv2d(x, w, optional_of(b), o.stride, padding, o.dilation, o.groups);
}

at::Tensor ConvUnit::finish(at::Tensor y, const at::Tensor& residual, Norm* norm) const {
  if (norm) y = norm->forward(y);
  if (residual.defined()) y = y + residual;
  return activate_(std::move(y), options_.activation);
}

at::Tensor ConvUnit::forward(const at::Tensor& x, const at::Tensor& residual, int64_t level) {
  const bool same = options_.same_padding && options_.stride > 1;
  const auto input = same ? pad(x) : x;
  Norm* norm = norms_.empty() ? nullptr : norms_[norms_.size() > 1 ? level : 0].get();
  if (!packed_.empty()) {
    if (norm && !norm->is_affine()) return finish(packed_[0](input), residual, norm);
    return packed_[packed_.size() > 1 ? level : 0](input, residual);
  }

  // A fixed scale and shift go into the weight, also in training: one pass over the activations less.
  if (norm && norm->is_affine()) {
    const auto [w, b] = fold(weight, bias, *norm);
    return finish(convolve(input, w.to(weight.dtype()), b.to(weight.dtype())), residual, nullptr);
  }
  return finish(convolve(input, weight, bias), residual, norm);
}

void ConvUnit::lower(at::ScalarType dtype) {
  const c10::AutoGradMode no_grad(false);
  const bool group_norm = !norms_.empty() && norms_[0]->options().kind == "gn";
  check<Error>(packed_.empty(), "[ConvUnit::lower] already lowered");
  const bool same = options_.same_padding && options_.stride > 1;
  const ConvGeometry geometry{options_.stride, same ? 0 : options_.dilation * (options_.kernel / 2),
                              options_.groups, options_.dilation};
  for (const auto& norm : group_norm ? std::vector<std::shared_ptr<Norm>>{} : norms_) {
    check<Error>(norm->is_affine(), "[ConvUnit::lower] norm statistics are not fixed; call eval() first");
    const auto [w, b] = fold(weight.to(at::kFloat), bias, *norm);
    packed_.emplace_back(w, b, geometry, options_.activation, dtype);
  }
  if (packed_.empty()) {
    const auto activation = group_norm ? Activation::none : options_.activation;
    packed_.emplace_back(weight, bias, geometry, activation, dtype);
  }
  weight.set_data(at::empty({0}, weight.options()));
  if (bias.defined()) bias.set_data(at::empty({0}, bias.options()));
}

void lower_units(torch::nn::Module& root, at::ScalarType dtype) {
  for (const auto& module : root.modules()) {
    if (auto* unit = dynamic_cast<ConvUnit*>(module.get())) unit->lower(dtype);
  }
}

}  // namespace instseg
