// SPDX-License-Identifier: Apache-2.0
#include "layers/mask_branch.h"

#include <ATen/ops/upsample_bilinear2d.h>
#include <c10/core/GradMode.h>

#include <array>
#include <cmath>

#include "instseg/ops/aligned_bilinear.h"
#include "layers/init.h"
#include "layers/mask_blocks.h"

namespace instseg {

void UnitList::add(const std::shared_ptr<ConvUnit>& unit) {
  units_.push_back(register_module(std::to_string(units_.size()), unit));
}

at::Tensor UnitList::forward(at::Tensor x) const {
  for (const auto& unit : units_) x = unit->forward(x);
  return x;
}

std::shared_ptr<ConvUnit> make_block(int64_t in, int64_t out, const std::string& norm, int64_t kernel,
                                     int64_t dilation) {
  auto unit = std::make_shared<ConvUnit>(ConvOptions{.in = in,
                                                     .out = out,
                                                     .kernel = kernel,
                                                     .dilation = dilation,
                                                     .bias = norm == "none",
                                                     .norm = {.kind = norm},
                                                     .activation = Activation::relu});
  init_kaiming_uniform_a1(unit->weight);
  return unit;
}

std::shared_ptr<ConvUnit> make_plain(int64_t in, int64_t out) {
  auto unit = std::make_shared<ConvUnit>(ConvOptions{.in = in, .out = out, .kernel = 1, .bias = true});
  init_default(unit->weight, unit->bias);
  return unit;
}

at::Tensor bilinear_to(const at::Tensor& x, int64_t height, int64_t width) {
  const std::array<int64_t, 2> size = {height, width};
  return at::upsample_bilinear2d(x, size, /*align_corners=*/false);
}

MaskBranch::MaskBranch(int64_t in, const MaskBranchOptions& options) {
  output_ = register_module("output", make_plain(options.channels, options.out));
  if (options.semantic_classes == 0) return;
  seg_head_ = register_module("seg_head", std::make_shared<UnitList>());
  seg_head_->add(make_block(in, options.channels, options.norm));
  seg_head_->add(make_block(options.channels, options.channels, options.norm));
  seg_logits_ = register_module("seg_logits", make_plain(options.channels, options.semantic_classes));
  if (options.semantic_prior > 0) {
    const c10::AutoGradMode no_grad(false);
    seg_logits_->bias.fill_(-std::log((1 - options.semantic_prior) / options.semantic_prior));
  }
}

at::Tensor MaskBranch::forward(const std::vector<at::Tensor>& taps, const std::vector<at::Tensor>& features) {
  const auto maps = trunk(taps, features);
  // bfloat16 mask features would move mask edges; the layer is tiny.
  return output_->forward(lowered_ ? maps.to(at::kFloat) : maps).to(at::kFloat);
}

at::Tensor MaskBranch::semantic(const at::Tensor& p3) const {
  return seg_logits_->forward(seg_head_->forward(p3)).to(at::kFloat);
}

void MaskBranch::lower(at::ScalarType dtype) {
  output_->lower(at::kFloat);
  for (const auto& item : named_children()) {
    const auto& name = item.key();
    if (name != "output" && name != "seg_head" && name != "seg_logits") lower_units(*item.value(), dtype);
  }
  lowered_ = true;
}

namespace {

std::shared_ptr<UnitList> make_refine(int64_t in, int64_t channels, const std::string& norm) {
  auto refine = std::make_shared<UnitList>();
  for (int level = 3; level <= 5; ++level) refine->add(make_block(in, channels, norm));
  return refine;
}

class CondInstBranch : public MaskBranch {
 public:
  CondInstBranch(const CondInstConfig& config, int64_t in, const MaskBranchOptions& options)
      : MaskBranch(in, options),
        refine_(register_module("refine", make_refine(in, options.channels, options.norm))),
        tower_(register_module("tower", std::make_shared<UnitList>())) {
    for (int64_t i = 0; i < config.branch_convs; ++i) {
      tower_->add(make_block(options.channels, options.channels, options.norm));
    }
  }

 protected:
  at::Tensor trunk(const std::vector<at::Tensor>&, const std::vector<at::Tensor>& features) override {
    const auto p4 = aligned_bilinear((*refine_)[1].forward(features[1]), 2);
    const auto p5 = aligned_bilinear((*refine_)[2].forward(features[2]), 4);
    return tower_->forward((*refine_)[0].forward(features[0]) + p4 + p5);
  }

 private:
  std::shared_ptr<UnitList> refine_, tower_;
};

class ProtoNet : public MaskBranch {
 public:
  ProtoNet(const BlendMaskConfig& config, int64_t in, const MaskBranchOptions& options)
      : MaskBranch(in, options),
        refine_(register_module("refine", make_refine(in, options.channels, options.norm))),
        tower_(register_module("tower", std::make_shared<UnitList>())) {
    for (int64_t i = 0; i <= config.branch_convs; ++i) {
      tower_->add(make_block(options.channels, options.channels, options.norm));
    }
  }

 protected:
  at::Tensor trunk(const std::vector<at::Tensor>&, const std::vector<at::Tensor>& features) override {
    const int64_t height = features[0].size(2), width = features[0].size(3);
    auto x = (*refine_)[0].forward(features[0]);
    for (size_t i = 1; i < 3; ++i) {
      x = x + bilinear_to((*refine_)[i].forward(features[i]), height, width);
    }
    for (size_t i = 0; i + 1 < tower_->size(); ++i) x = (*tower_)[i].forward(x);
    return (*tower_)[tower_->size() - 1].forward(bilinear_to(x, 2 * height, 2 * width));
  }

 private:
  std::shared_ptr<UnitList> refine_, tower_;
};

}  // namespace

std::shared_ptr<MaskBranch> make_mask_branch(const CondInstConfig& config, int64_t in, int64_t num_classes) {
  // Without mask features one map is still predicted, as published, and not used.
  return std::make_shared<CondInstBranch>(
      config, in,
      MaskBranchOptions{.channels = config.branch_channels,
                        .out = std::max<int64_t>(config.mask_channels, 1),
                        .norm = config.branch_norm,
                        .semantic_classes = config.semantic ? num_classes : 0,
                        .semantic_prior = 0.01});
}

std::shared_ptr<MaskBranch> make_basis_module(const BlendMaskConfig& config, int64_t in,
                                              const std::vector<int64_t>& tap_channels, int64_t num_classes) {
  const MaskBranchOptions options{.channels = config.branch_channels,
                                  .out = config.bases,
                                  .norm = config.branch_norm,
                                  .semantic_classes = config.semantic ? num_classes + 1 : 0};
  if (config.bottom == "protonet") return std::make_shared<ProtoNet>(config, in, options);
  return make_deeplab_bottom(config, in, tap_channels, options);
}

}  // namespace instseg
