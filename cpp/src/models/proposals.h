// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "models/fcos_detector.h"

namespace instseg {

/**
 * Which positives of a step get a mask loss, indices [K] into step.positives: all, a random subset of
 * max_proposals (of each image: max_proposals_per_image), or with topk_per_image = T the max(T / objects, 1)
 * best scored of each object (score: largest class probability times centerness).
 */
at::Tensor choose_proposals(const TrainStep& step, const CondInstConfig& config);

/** How many choose_proposals chooses of positives with these images and objects, both [P]. */
int64_t count_proposals(const at::Tensor& images, const at::Tensor& gt_index, const CondInstConfig& config);

}  // namespace instseg
