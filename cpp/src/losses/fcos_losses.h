// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "instseg/model.h"
#include "instseg/ops/fcos_targets.h"
#include "layers/fcos_head.h"

namespace instseg {

/** What the FCOS losses need besides head outputs and targets. */
struct FcosLossContext {
  const ModelConfig& config;
  const std::vector<TargetLevel>& levels;
  const ReduceMean& reduce_mean;
  at::Tensor moving_positives;  // scalar buffer of cls_normalizer "moving", updated in place; else undefined
};

/**
 * loss_cls, loss_box and loss_centerness (loss_iou when the branch predicts the IoU): FCOS, section 3;
 * docs/models.md "FCOS losses". Positives are counted over all workers; without positives the last two are 0
 * but stay attached to the graph.
 */
NamedTensors fcos_losses(const std::vector<HeadOutput>& outputs, const FcosTargets& targets,
                         const FcosLossContext& context);

}  // namespace instseg
