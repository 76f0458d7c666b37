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
  at::Tensor normalizers;       // [2+] fcos_normalizers, averaged over the parts of the step
  at::Tensor moving_positives;  // scalar buffer of cls_normalizer "moving"; else undefined
  bool begins_step;             // the buffer is updated in place
};

/** Positive locations and the sum of their centerness, [2] float32 on the device of the targets. */
at::Tensor fcos_normalizers(const FcosTargets& targets, const at::Tensor& positives);

/**
 * loss_cls, loss_box and loss_centerness (loss_iou when the branch predicts the IoU): FCOS, section 3;
 * docs/models.md "FCOS losses". positives: indices [P] int64 of the assigned locations; without any the last
 * two are 0 but stay attached to the graph.
 */
NamedTensors fcos_losses(const std::vector<HeadOutput>& outputs, const FcosTargets& targets,
                         const at::Tensor& positives, const FcosLossContext& context);

}  // namespace instseg
