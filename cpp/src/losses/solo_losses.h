// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "instseg/config.h"
#include "instseg/ops/solo_targets.h"

namespace instseg {

/**
 * Focal loss summed over all cells of all levels (SOLO section 3.3). logits of each level [B, C, S, S];
 * labels of its targets on any device. Scalar float32.
 */
at::Tensor solo_category_loss(const std::vector<at::Tensor>& logits, const std::vector<SoloTargets>& targets,
                              int64_t num_classes, const LossConfig& loss);

/** Cells with an object and masks to learn, [2] float32 on the CPU. */
at::Tensor solo_normalizers(const std::vector<SoloTargets>& targets, int64_t num_classes);

}  // namespace instseg
