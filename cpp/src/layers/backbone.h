// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <vector>

#include "instseg/config.h"

namespace instseg {

/** A bottom-up network with taps at strides 4, 8, 16 and 32. */
class Backbone : public torch::nn::Module {
 public:
  /** x [N, 3, H, W], H and W multiples of 32 -> C2, C3, C4, C5: [N, channels()[i], H/2^(i+2), W/2^(i+2)]. */
  virtual std::vector<at::Tensor> forward(at::Tensor x) = 0;
  /** Channels of C2..C5. */
  virtual std::vector<int64_t> channels() const = 0;
};

/** Builds the backbone named in `config`; its first `config.freeze` stages get no gradients and frozen norms.
 */
std::shared_ptr<Backbone> make_backbone(const BackboneConfig& config);

/** Norm kind of stage `stage` (0 = stem): frozen stages use fixed statistics whatever the config says. */
std::string stage_norm(const BackboneConfig& config, int64_t stage);

/** Switches gradients off for every parameter below `stage`. */
void freeze_stage(torch::nn::Module& stage);

std::shared_ptr<Backbone> make_resnet(const BackboneConfig& config);
std::shared_ptr<Backbone> make_efficientnet_lite(const BackboneConfig& config);

}  // namespace instseg
