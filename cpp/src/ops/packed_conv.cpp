// SPDX-License-Identifier: Apache-2.0
#include "ops/packed_conv.h"

#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/hardtanh.h>
#include <ATen/ops/relu.h>

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace instseg {
namespace {

constexpr size_t kMaxPackings = 2;  // of a 1x1 weight: landscape and portrait

using Scalars = c10::List<std::optional<at::Scalar>>;
using OptionalTensor = std::optional<at::Tensor>;

// oneDNN's fused convolutions are registered operators without a C++ header.
const c10::OperatorHandle* find_op(const char* name, const char* overload) {
  static std::map<std::pair<std::string, std::string>, std::optional<c10::OperatorHandle>> cache;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  auto [it, is_new] = cache.try_emplace({name, overload});
  if (is_new) it->second = c10::Dispatcher::singleton().findSchema({name, overload});
  return it->second ? &*it->second : nullptr;
}

bool onednn_available() {
  return at::globalContext().hasMKLDNN() && find_op("mkldnn::_convolution_pointwise", "") &&
         find_op("mkldnn::_convolution_pointwise_", "binary") &&
         find_op("mkldnn::_reorder_convolution_weight", "");
}

at::Tensor reorder_weight(const at::Tensor& weight, const ConvGeometry& g, at::IntArrayRef input_size) {
  using Fn = at::Tensor(const at::Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t,
                        at::OptionalIntArrayRef);
  const int64_t padding[] = {g.padding, g.padding}, stride[] = {g.stride, g.stride},
                dilation[] = {g.dilation, g.dilation};
  static const auto op = find_op("mkldnn::_reorder_convolution_weight", "")->typed<Fn>();
  return op.call(weight, padding, stride, dilation, g.groups, input_size);
}

std::string_view attribute(Activation activation) {
  switch (activation) {
    case Activation::relu:
      return "relu";
    case Activation::relu6:
      return "hardtanh";
    default:
      return "none";
  }
}

Scalars attribute_scalars(Activation activation) {
  Scalars scalars;
  if (activation == Activation::relu6) {
    scalars.push_back(at::Scalar(0.0));
    scalars.push_back(at::Scalar(6.0));
  }
  return scalars;
}

}  // namespace

at::Tensor activate_(at::Tensor x, Activation activation) {
  if (activation == Activation::relu) return x.relu_();
  // One pass backward, where clamp takes four.
  if (activation == Activation::relu6) return at::hardtanh_(x, 0, 6);
  return x;
}

PackedConv::PackedConv(const at::Tensor& weight, const at::Tensor& bias, const ConvGeometry& geometry,
                       Activation activation, at::ScalarType dtype)
    : bias_(bias.defined() ? bias.detach().to(dtype) : bias), geometry_(geometry), activation_(activation) {
  onednn_ = weight.is_cpu() && onednn_available();
  kernel_ = weight.size(2);
  const auto format = onednn_ ? at::MemoryFormat::Contiguous : at::MemoryFormat::ChannelsLast;
  plain_ = weight.detach().to(dtype).contiguous(format).clone();
}

at::Tensor PackedConv::weight_for(const at::Tensor& x) const {
  const std::array<int64_t, 3> shape = {x.size(0), x.size(2), x.size(3)};
  for (const auto& packed : packed_) {
    if (packed.shape == shape) return packed.weight;
  }
  // oneDNN chooses the layout of 1x1 weights by the input's size and reorders a wrong one in every call,
  // which can take longer than the convolution; other kernels have one layout.
  const bool depends_on_size = kernel_ == 1;
  if (!depends_on_size && !packed_.empty()) return packed_.front().weight;
  if (packed_.size() == kMaxPackings) packed_.erase(packed_.begin());
  packed_.push_back({shape, reorder_weight(plain_, geometry_, x.sizes())});
  if (!depends_on_size) plain_.reset();
  return packed_.back().weight;
}

at::Tensor PackedConv::operator()(const at::Tensor& x, const at::Tensor& residual) const {
  const auto& g = geometry_;
  const OptionalTensor bias = bias_.defined() ? OptionalTensor(bias_) : std::nullopt;
  if (!onednn_) {
    auto y = at::conv2d(x, plain_, bias, g.stride, g.padding, g.dilation, g.groups);
    if (residual.defined()) y.add_(residual);
    return activate_(y, activation_);
  }
  const int64_t padding[] = {g.padding, g.padding}, stride[] = {g.stride, g.stride},
                dilation[] = {g.dilation, g.dilation};
  if (!residual.defined()) {
    using Fn = at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&, at::IntArrayRef,
                          at::IntArrayRef, at::IntArrayRef, int64_t, c10::string_view, Scalars,
                          std::optional<c10::string_view>);
    static const auto op = find_op("mkldnn::_convolution_pointwise", "")->typed<Fn>();
    return op.call(x, weight_for(x), bias, padding, stride, dilation, g.groups, attribute(activation_),
                   attribute_scalars(activation_), "");
  }
  using Fn =
      at::Tensor&(at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&, at::IntArrayRef,
                  at::IntArrayRef, at::IntArrayRef, int64_t, c10::string_view, std::optional<at::Scalar>,
                  std::optional<c10::string_view>, Scalars, std::optional<c10::string_view>);
  static const auto op = find_op("mkldnn::_convolution_pointwise_", "binary")->typed<Fn>();
  at::Tensor sum = residual;
  const bool relu = activation_ == Activation::relu;  // the only one that fuses after a sum
  op.call(sum, x, weight_for(x), bias, padding, stride, dilation, g.groups, "add", at::Scalar(1.0),
          relu ? std::optional<c10::string_view>("relu") : std::nullopt, Scalars(),
          relu ? std::optional<c10::string_view>("") : std::nullopt);
  return relu ? sum : activate_(sum, activation_);
}

}  // namespace instseg
