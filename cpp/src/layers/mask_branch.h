// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <vector>

#include "instseg/config.h"
#include "layers/conv_unit.h"

namespace instseg {

/** ConvUnits that read one another, named 0, 1, ... */
class UnitList : public torch::nn::Module {
 public:
  void add(const std::shared_ptr<ConvUnit>& unit);
  at::Tensor forward(at::Tensor x) const;
  ConvUnit& operator[](size_t i) const { return *units_[i]; }
  size_t size() const { return units_.size(); }

 private:
  std::vector<std::shared_ptr<ConvUnit>> units_;
};

/** What a mask branch computes. */
struct MaskBranchOptions {
  int64_t channels = 128;
  int64_t out = 8;               // maps it gives
  std::string norm = "bn";       // "bn", "gn" or "none"
  int64_t semantic_classes = 0;  // > 0: an auxiliary classifier on P3 for training
  double semantic_prior = 0;     // its initial foreground probability; 0: as any convolution
};

/**
 * Pyramid -> maps that all masks of an image are made of: CondInst's mask branch and BlendMask's bottom
 * module. Parameters below output, and seg_head and seg_logits of the auxiliary semantic task.
 */
class MaskBranch : public torch::nn::Module {
 public:
  MaskBranch(int64_t in, const MaskBranchOptions& options);

  /** C2..C5 and P3.. -> [B, out, H, W] float32. */
  at::Tensor forward(const std::vector<at::Tensor>& taps, const std::vector<at::Tensor>& features);
  /** Logits of the semantic task at stride 8, [B, semantic_classes, H/8, W/8]. */
  at::Tensor semantic(const at::Tensor& p3) const;
  /** Lowers every unit of inference to `dtype`, `output` to float32. */
  void lower(at::ScalarType dtype);

 protected:
  /** The maps before `output`, [B, channels, H, W]. */
  virtual at::Tensor trunk(const std::vector<at::Tensor>& taps, const std::vector<at::Tensor>& features) = 0;

 private:
  std::shared_ptr<ConvUnit> output_, seg_logits_;
  std::shared_ptr<UnitList> seg_head_;
  bool lowered_ = false;
};

/** Mask features at stride 8 (Tian et al., CondInst, ECCV 2020, section 3; docs/models.md): refine, tower. */
std::shared_ptr<MaskBranch> make_mask_branch(const CondInstConfig& config, int64_t in, int64_t num_classes);

/**
 * Bases at stride 4 (Chen et al., BlendMask, CVPR 2020, section 3.1; docs/models.md): refine, tower
 * ("protonet") or low, aspp, decoder ("deeplab_*"). `tap_channels` of C2..C5.
 */
std::shared_ptr<MaskBranch> make_basis_module(const BlendMaskConfig& config, int64_t in,
                                              const std::vector<int64_t>& tap_channels, int64_t num_classes);

}  // namespace instseg
