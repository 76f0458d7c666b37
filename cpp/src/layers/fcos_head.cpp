// SPDX-License-Identifier: Apache-2.0
#include "layers/fcos_head.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <string>

#include "layers/init.h"

namespace instseg {
namespace {

constexpr double kInitStd = 0.01;
// Lowered predictors: bfloat16 logits would tie neighbouring locations and move boxes by up to a pixel.
constexpr at::ScalarType kPredictorType = at::kFloat;

/** Anonymous parent of the per-level factors, named scales.0, scales.1, ... */
class Scales : public torch::nn::Module {
 public:
  explicit Scales(int64_t levels) {
    for (int64_t level = 0; level < levels; ++level) {
      values.push_back(register_parameter(std::to_string(level), at::ones({1})));
    }
  }
  std::vector<at::Tensor> values;
};

std::shared_ptr<ConvUnit> make_unit(const ConvOptions& options) {
  auto unit = std::make_shared<ConvUnit>(options);
  init_normal(unit->weight, kInitStd);
  return unit;
}

std::shared_ptr<ConvUnit> make_predictor(int64_t in, int64_t out) {
  return make_unit({.in = in, .out = out, .kernel = 3, .bias = true});
}

}  // namespace

Tower::Tower(int64_t channels, int64_t convs, const HeadConfig& config, int64_t levels) {
  for (int64_t i = 0; i < convs; ++i) {
    const ConvOptions options{.in = channels,
                              .out = channels,
                              .kernel = 3,
                              .bias = true,
                              .norm = {.kind = config.norm},
                              .norm_levels = config.norm == "bn" ? levels : 0,
                              .activation = Activation::relu};
    units_.push_back(register_module(std::to_string(i), make_unit(options)));
  }
}

at::Tensor Tower::forward(at::Tensor x, int64_t level) {
  for (const auto& unit : units_) x = unit->forward(x, {}, level);
  return x;
}

FcosHead::FcosHead(const HeadConfig& config, int64_t channels, int64_t num_classes, int64_t levels)
    : config_(config) {
  const auto tower = [&](const char* name, int64_t convs) {
    return register_module(name, std::make_shared<Tower>(channels, convs, config, levels));
  };
  share_tower_ = tower("share_tower", config.share_convs);
  cls_tower_ = tower("cls_tower", config.cls_convs);
  box_tower_ = tower("box_tower", config.box_convs);
  cls_logits_ = register_module("cls_logits", make_predictor(channels, num_classes));
  box_pred_ = register_module("box_pred", make_predictor(channels, 4));
  centerness_ = register_module("centerness", make_predictor(channels, 1));
  if (config.scale) scales_ = register_module("scales", std::make_shared<Scales>(levels))->values;

  const c10::AutoGradMode no_grad(false);
  cls_logits_->bias.fill_(-std::log((1.0 - config.prior_prob) / config.prior_prob));
}

at::Tensor FcosHead::predictor_input(const at::Tensor& tower) const {
  return lowered_ ? tower.to(kPredictorType) : tower;
}

at::Tensor FcosHead::regression(const at::Tensor& raw, int64_t level) const {
  auto reg = scales_.empty() ? raw : raw * scales_[level].to(raw.dtype());
  return config_.box_transform == "exp" ? reg.exp() : reg.relu();
}

HeadOutput FcosHead::forward_level(const at::Tensor& feature, int64_t level) {
  const auto shared = share_tower_->forward(feature, level);
  const auto cls = cls_tower_->forward(shared, level);
  const auto box = box_tower_->forward(shared, level);
  const auto cls_input = predictor_input(cls);
  const auto box_input = box.is_same(cls) ? cls_input : predictor_input(box);
  HeadOutput out{.logits = cls_logits_->forward(cls_input), .reg = {}, .centerness = {}, .box_tower = box};
  if (packed_predictors_.defined()) {
    const auto both = packed_predictors_(box_input);
    out.reg = regression(both.narrow(1, 0, 4), level);
    out.centerness = both.narrow(1, 4, 1);
  } else {
    out.reg = regression(box_pred_->forward(box_input), level);
    out.centerness = centerness_->forward(config_.centerness_on == "box" ? box_input : cls_input);
  }
  return out;
}

std::vector<HeadOutput> FcosHead::forward(const std::vector<at::Tensor>& features) {
  std::vector<HeadOutput> outputs;
  for (size_t level = 0; level < features.size(); ++level) {
    outputs.push_back(forward_level(features[level], static_cast<int64_t>(level)));
  }
  return outputs;
}

void FcosHead::lower(at::ScalarType dtype) {
  if (config_.centerness_on == "box") {
    packed_predictors_ = PackedConv(at::cat({box_pred_->weight, centerness_->weight}),
                                    at::cat({box_pred_->bias, centerness_->bias}), ConvGeometry{1, 1, 1},
                                    Activation::none, kPredictorType);
  }
  for (const auto& predictor : {cls_logits_, box_pred_, centerness_}) predictor->lower(kPredictorType);
  for (const auto& tower : {share_tower_, cls_tower_, box_tower_}) lower_units(*tower, dtype);
  lowered_ = true;
}

}  // namespace instseg
