// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/upsample_bilinear2d.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "networks.h"

/** Inputs of SOLO's layers and their twins in plain ATen calls. */
namespace instseg::solo_test {

inline constexpr int64_t kIn = 32, kWidth = 64, kClasses = 5, kImages = 2;
inline constexpr double kPrior = 0.01;
inline constexpr ImageSize kQuarter{32, 48};  // P2

inline SoloConfig config_of(const std::string& head) {
  return {.head = head,
          .grids = {7, 6, 5, 4, 3},
          .convs = 2,
          .channels = kWidth,
          .mask_channels = 32,
          .branch_channels = 64};
}

/** P2..P6 of images of 128 x 192. */
inline std::vector<at::Tensor> pyramid() {
  at::manual_seed(1);
  std::vector<at::Tensor> features;
  for (int64_t stride = 4; stride <= 64; stride *= 2) {
    features.push_back(
        at::randn({kImages, kIn, 128 / stride, 192 / stride}).contiguous(at::MemoryFormat::ChannelsLast));
  }
  return features;
}

/** Values far from the initial ones, which are all but zero. */
inline void spread(torch::nn::Module& module) {
  const c10::AutoGradMode no_grad(false);
  for (auto& parameter : module.parameters()) parameter.normal_(0, parameter.dim() == 1 ? 0.5 : 0.15);
}

inline at::Tensor resized(const at::Tensor& x, int64_t height, int64_t width) {
  return at::upsample_bilinear2d(x, at::IntArrayRef({height, width}), false);
}

inline at::Tensor doubled(const at::Tensor& x) { return resized(x, 2 * x.size(2), 2 * x.size(3)); }

/** Layers by name, in plain ATen calls. */
class Twin {
 public:
  explicit Twin(const torch::nn::Module& module) : values_(module.named_parameters()) {}

  at::Tensor conv(const at::Tensor& x, const std::string& name) const {
    const auto weight = values_[name + ".weight"];
    const auto* bias = values_.find(name + ".bias");
    return at::conv2d(x, weight, bias ? *bias : at::Tensor(), 1, weight.size(2) / 2);
  }
  at::Tensor block(const at::Tensor& x, const std::string& name) const {
    return at::relu(at::group_norm(conv(x, name), 32, values_[name + ".norm.weight"],
                                   values_[name + ".norm.bias"], 1e-5));
  }
  at::Tensor tower(const at::Tensor& x, const std::string& name) const {
    return block(block(x, name + ".0"), name + ".1");
  }

 private:
  torch::OrderedDict<std::string, at::Tensor> values_;
};

/** -1..1 in `n` steps. */
inline at::Tensor line(int64_t n) {
  return at::arange(n).to(at::kDouble).mul(2.0 / static_cast<double>(n - 1)) - 1;
}

inline at::Tensor placed(const at::Tensor& x, bool columns, bool rows) {
  const int64_t height = x.size(2), width = x.size(3);
  std::vector<at::Tensor> parts = {x};
  const std::vector<int64_t> shape = {x.size(0), 1, height, width};
  if (columns) parts.push_back(line(width).view({1, 1, 1, width}).expand(shape).to(at::kFloat));
  if (rows) parts.push_back(line(height).view({1, 1, height, 1}).expand(shape).to(at::kFloat));
  return at::cat(parts, 1);
}

using Shapes = std::set<std::pair<std::string, std::vector<int64_t>>>;

/** Names and shapes of all parameters. */
inline Shapes shapes(const torch::nn::Module& module) {
  Shapes found;
  for (const auto& item : module.named_parameters()) found.emplace(item.key(), item.value().sizes().vec());
  return found;
}

/** weight and norm of a convolution `name`. */
inline void add_block(Shapes& expected, const std::string& name, int64_t in, int64_t out,
                      int64_t kernel = 3) {
  expected.emplace(name + ".weight", std::vector<int64_t>{out, in, kernel, kernel});
  for (const char* part : {".norm.weight", ".norm.bias"})
    expected.emplace(name + part, std::vector<int64_t>{out});
}

}  // namespace instseg::solo_test
