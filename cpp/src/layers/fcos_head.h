// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>
#include <vector>

#include "instseg/config.h"
#include "layers/conv_unit.h"

namespace instseg {

/** A sequence of 3x3 ConvUnits named 0, 1, ...; empty towers pass their input on. */
class Tower : public torch::nn::Module {
 public:
  Tower(int64_t channels, int64_t convs, const HeadConfig& config, int64_t levels);
  at::Tensor forward(at::Tensor x, int64_t level);

 private:
  std::vector<std::shared_ptr<ConvUnit>> units_;
};

/** What the head says about one pyramid level. */
struct HeadOutput {
  at::Tensor logits;      // [N, C, H, W] class logits
  at::Tensor reg;         // [N, 4, H, W] l, t, r, b >= 0, in strides or pixels (HeadConfig::stride_units)
  at::Tensor centerness;  // [N, 1, H, W] logit
  at::Tensor box_tower;   // [N, channels, H, W] features for mask heads
};

/**
 * The FCOS head, shared by all levels (Tian et al., FCOS, TPAMI 2020, section 3): share_tower, cls_tower,
 * box_tower, cls_logits, box_pred, centerness, scales.
 */
class FcosHead : public torch::nn::Module {
 public:
  FcosHead(const HeadConfig& config, int64_t channels, int64_t num_classes, int64_t levels);

  /** One output per level, in order. */
  std::vector<HeadOutput> forward(const std::vector<at::Tensor>& features);

  /** Lowers the towers to `dtype` and the predictors to float32; those of the box tower become one
   * convolution. */
  void lower(at::ScalarType dtype);

 private:
  at::Tensor predictor_input(const at::Tensor& tower) const;
  at::Tensor regression(const at::Tensor& raw, int64_t level) const;
  HeadOutput forward_level(const at::Tensor& feature, int64_t level);

  HeadConfig config_;
  std::shared_ptr<Tower> share_tower_, cls_tower_, box_tower_;
  std::shared_ptr<ConvUnit> cls_logits_, box_pred_, centerness_;
  std::vector<at::Tensor> scales_;  // [1] per level, or empty
  PackedConv packed_predictors_;    // box_pred and centerness side by side
  bool lowered_ = false;
};

}  // namespace instseg
