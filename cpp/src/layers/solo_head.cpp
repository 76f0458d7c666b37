// SPDX-License-Identifier: Apache-2.0
#include "layers/solo_head.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "layers/init.h"
#include "layers/mask_blocks.h"
#include "layers/solo_blocks.h"

namespace instseg {
namespace {

constexpr double kInitStd = 0.01;

double logit(double probability) { return std::log(probability / (1 - probability)); }

/** Anonymous parent of per-level convolutions, named 0, 1, ... */
class ChannelConvs : public torch::nn::Module {};

}  // namespace

std::shared_ptr<ConvUnit> make_solo_block(int64_t in, int64_t out, int64_t kernel) {
  auto unit = std::make_shared<ConvUnit>(ConvOptions{
      .in = in, .out = out, .kernel = kernel, .norm = {.kind = "gn"}, .activation = Activation::relu});
  init_normal(unit->weight, kInitStd);
  return unit;
}

at::Tensor with_coordinates(const at::Tensor& x, bool columns, bool rows) {
  const int64_t images = x.size(0), height = x.size(2), width = x.size(3);
  std::vector<at::Tensor> parts = {x};
  // In float32 first: steps of a bfloat16 range would be uneven.
  const auto options = x.options().dtype(at::kFloat).requires_grad(false);
  if (columns) {
    const auto line = at::linspace(-1, 1, width, options).to(x.scalar_type());
    parts.push_back(line.view({1, 1, 1, width}).expand({images, 1, height, width}));
  }
  if (rows) {
    const auto line = at::linspace(-1, 1, height, options).to(x.scalar_type());
    parts.push_back(line.view({1, 1, height, 1}).expand({images, 1, height, width}));
  }
  return at::cat(parts, 1).contiguous(x.suggest_memory_format());
}

ChannelConv::ChannelConv(int64_t in, int64_t out, int64_t kernel, double prior_prob) {
  weight = register_parameter("weight", at::empty({out, in, kernel, kernel}));
  bias = register_parameter("bias", at::zeros({out}));
  init_normal(weight, kInitStd);
  const c10::AutoGradMode no_grad(false);
  bias.fill_(logit(prior_prob));
}

at::Tensor ChannelConv::forward(const at::Tensor& x, const at::Tensor& rows) const {
  const auto w = rows.defined() ? weight.index_select(0, rows) : weight;
  const auto b = rows.defined() ? bias.index_select(0, rows) : bias;
  return at::conv2d(x.to(w.scalar_type()), w, b, 1, weight.size(2) / 2).to(at::kFloat);  // also in autocast
}

SoloHead::SoloHead(const SoloConfig& config, int64_t in, int64_t num_classes, double prior_prob)
    : config_(config), outputs_(config.grids.size()) {
  cls_tower_ = make_tower("cls_tower", in);
  auto predictor = std::make_shared<ConvUnit>(
      ConvOptions{.in = config.channels, .out = num_classes, .kernel = 3, .bias = true});
  init_normal(predictor->weight, kInitStd);
  const c10::AutoGradMode no_grad(false);
  predictor->bias.fill_(logit(prior_prob));
  cls_logits_ = register_module("cls_logits", std::move(predictor));
}

std::shared_ptr<UnitList> SoloHead::make_tower(const char* name, int64_t in) {
  auto tower = register_module(name, std::make_shared<UnitList>());
  for (int64_t i = 0; i < config_.convs; ++i) {
    tower->add(make_solo_block(i == 0 ? in : config_.channels, config_.channels));
  }
  return tower;
}

void SoloHead::make_outputs(const char* name, int64_t kernel, double prior_prob,
                            const std::function<int64_t(int64_t)>& out) {
  const auto list = register_module(name, std::make_shared<ChannelConvs>());
  for (size_t level = 0; level < config_.grids.size(); ++level) {
    auto conv = std::make_shared<ChannelConv>(config_.channels, out(grid(level)), kernel, prior_prob);
    outputs_[level].push_back(list->register_module(std::to_string(level), std::move(conv)));
  }
}

void SoloHead::classify(SoloForward& network) {
  const auto& f = network.features;
  const auto resized = [](const at::Tensor& x, const at::Tensor& like) {
    return x.sizes().slice(2) == like.sizes().slice(2) ? x : bilinear_to(x, like.size(2), like.size(3));
  };
  network.levels = {resized(f[0], f[1]), f[1], f[2], f[3], resized(f[4], f[3])};
  network.towers.resize(network.levels.size());
  for (size_t level = 0; level < network.levels.size(); ++level) {
    network.grids.push_back(bilinear_to(network.levels[level], grid(level), grid(level)));
    // bfloat16 logits would tie neighbouring cells; the layer is small.
    const auto tower = predictor_input(cls_tower_->forward(network.grids.back()));
    network.logits.push_back(cls_logits_->forward(tower).to(at::kFloat));
  }
}

void SoloHead::prepare(SoloForward& network, size_t level) {
  if (network.towers[level].empty()) network.towers[level] = run_towers(network, level);
}

at::Tensor SoloHead::unused_zero(const SoloForward& network) {
  auto zero = at::zeros({}, network.logits[0].options());
  const auto attach = [&](torch::nn::Module& module) {
    for (const auto& parameter : module.parameters()) {
      if (parameter.requires_grad()) zero = zero + 0 * parameter.sum();
    }
  };
  const auto prepared = [](const std::vector<at::Tensor>& tower) { return !tower.empty(); };
  const bool any = std::any_of(network.towers.begin(), network.towers.end(), prepared);
  for (const auto& item : named_children()) {
    if (!any && item.key() != "cls_tower" && item.key() != "cls_logits") attach(*item.value());
  }
  for (size_t level = 0; any && level < outputs_.size(); ++level) {
    if (prepared(network.towers[level])) continue;
    for (const auto& conv : outputs_[level]) attach(*conv);
  }
  return zero;
}

void SoloHead::lower(at::ScalarType dtype) {
  for (const auto& item : named_children()) {
    const bool predictor = item.key() == "cls_logits" || item.key() == "kernel";
    lower_units(*item.value(), predictor ? at::kFloat : dtype);
  }
  lowered_ = true;
}

}  // namespace instseg
