// SPDX-License-Identifier: Apache-2.0
#include "layers/fpn.h"

#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/upsample_nearest2d.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <array>
#include <string>

#include "instseg/error.h"
#include "layers/init.h"

namespace instseg {
namespace {

constexpr int64_t kCoarsestTap = 5;

std::shared_ptr<ConvUnit> make_unit(int64_t in, int64_t out, const std::string& norm, int64_t kernel,
                                    int64_t stride = 1) {
  auto unit = std::make_shared<ConvUnit>(ConvOptions{.in = in,
                                                     .out = out,
                                                     .kernel = kernel,
                                                     .stride = stride,
                                                     .bias = norm == "none",
                                                     .norm = {.kind = norm}});
  init_kaiming_uniform_a1(unit->weight);
  return unit;
}

at::Tensor upsample_to(const at::Tensor& x, const at::Tensor& like) {
  const std::array<int64_t, 2> size = {like.size(2), like.size(3)};
  return at::upsample_nearest2d(x, size);
}

}  // namespace

Fpn::Fpn(const NeckConfig& config, const std::vector<int64_t>& in_channels) : config_(config) {
  for (int64_t level = config.min_level; level <= std::min(config.max_level, kCoarsestTap); ++level) {
    const int64_t in = in_channels.at(level - 2);
    laterals_.push_back(
        register_module(join("lateral", level), make_unit(in, config.channels, config.norm, 1)));
    outputs_.push_back(
        register_module(join("output", level), make_unit(config.channels, config.channels, config.norm, 3)));
  }
  // The derived levels are plain convolutions whatever the norm of the pyramid.
  for (int64_t level = kCoarsestTap + 1; level <= config.max_level && config.extra == "conv"; ++level) {
    extras_.push_back(
        register_module(join("p", level), make_unit(config.channels, config.channels, "none", 3, 2)));
  }
}

std::vector<at::Tensor> Fpn::forward(const std::vector<at::Tensor>& taps) {
  const auto count = static_cast<int64_t>(laterals_.size());
  std::vector<at::Tensor> levels(count);
  at::Tensor top;
  for (int64_t i = count - 1; i >= 0; --i) {
    const auto& tap = taps.at(config_.min_level - 2 + i);
    // The sum is the lateral convolution's residual, so that it is fused once lowered.
    top = laterals_[i]->forward(tap, top.defined() ? upsample_to(top, tap) : top);
    levels[i] = i == 0 && halved_.defined() ? halved_(top) : outputs_[i]->forward(top);
  }
  for (int64_t level = kCoarsestTap + 1; level <= config_.max_level; ++level) {
    const auto& previous = levels.back();
    if (config_.extra == "pool") {
      levels.push_back(at::max_pool2d(previous, 1, 2));
    } else {
      const bool rectify = level == kCoarsestTap + 2;  // P7 reads ReLU(P6); P6 itself stays as it is
      levels.push_back(extras_[level - kCoarsestTap - 1]->forward(rectify ? at::relu(previous) : previous));
    }
  }
  return levels;
}

void Fpn::lower(at::ScalarType dtype, bool halve_finest) {
  if (halve_finest) {
    const c10::AutoGradMode no_grad(false);
    const auto& output = *outputs_[0];
    check<Error>(output.bias.defined(), "[Fpn.lower] a pyramid with norm cannot be halved");
    auto weight = at::zeros({output.weight.size(0), output.weight.size(1), 4, 4}, output.weight.options());
    for (const int64_t y : {0, 1}) {  // the 3x3 window of each of the four averaged pixels
      for (const int64_t x : {0, 1}) weight.narrow(2, y, 3).narrow(3, x, 3).add_(output.weight, 0.25);
    }
    halved_ =
        PackedConv(weight, output.bias, ConvGeometry{.stride = 2, .padding = 1}, Activation::none, dtype);
  }
  lower_units(*this, dtype);
}

}  // namespace instseg
