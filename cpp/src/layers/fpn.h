// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>
#include <vector>

#include "instseg/config.h"
#include "layers/conv_unit.h"

namespace instseg {

/**
 * Feature pyramid (Lin et al. 2017): 1x1 laterals, nearest x2 top-down sums, 3x3 outputs; levels above 5 from
 * the P5 output. Parameters lateral{k}, output{k}, p6, p7 with k = log2(stride).
 */
class Fpn : public torch::nn::Module {
 public:
  /** `in_channels` of C2..C5. */
  Fpn(const NeckConfig& config, const std::vector<int64_t>& in_channels);

  /** C2..C5 -> P{min_level}..P{max_level}, each [N, channels, H/2^k, W/2^k] rounded up. */
  std::vector<at::Tensor> forward(const std::vector<at::Tensor>& taps);

  /**
   * Lowers as lower_units does. `halve_finest`: the finest level, of even size, comes at half its size,
   * averaged over 2x2; one 4x4 convolution of stride 2 does both. Needs a pyramid without norm.
   */
  void lower(at::ScalarType dtype, bool halve_finest = false);

 private:
  NeckConfig config_;
  std::vector<std::shared_ptr<ConvUnit>> laterals_, outputs_;  // from min_level to 5
  std::vector<std::shared_ptr<ConvUnit>> extras_;              // p6, p7 for extra = "conv"
  PackedConv halved_;                                          // of the finest level, once lowered so
};

}  // namespace instseg
