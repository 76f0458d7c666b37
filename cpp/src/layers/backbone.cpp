// SPDX-License-Identifier: Apache-2.0
#include "layers/backbone.h"

#include "instseg/error.h"

namespace instseg {

std::shared_ptr<Backbone> make_backbone(const BackboneConfig& config) {
  if (config.name.starts_with("resnet")) return make_resnet(config);
  if (config.name.starts_with("efficientnet_lite")) return make_efficientnet_lite(config);
  throw ValueError(join("[make_backbone] backbone.name: unknown backbone '", config.name, "'"));
}

std::string stage_norm(const BackboneConfig& config, int64_t stage) {
  // bn_eval keeps its kind (its statistics are fixed already); its parameters are frozen by freeze_stage.
  return config.norm == "bn" && stage < config.freeze ? "frozen_bn" : config.norm;
}

void freeze_stage(torch::nn::Module& stage) {
  for (auto& parameter : stage.parameters()) parameter.requires_grad_(false);
}

}  // namespace instseg
