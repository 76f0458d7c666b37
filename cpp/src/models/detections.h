// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "instseg/config.h"
#include "instseg/instances.h"
#include "instseg/ops/fcos_decode.h"

namespace instseg {

/** Candidates that survive class-wise NMS and the limit on detections, best first: indices into `candidates`.
 */
at::Tensor select_detections(const FcosCandidates& candidates, const PostConfig& post);

/**
 * Boxes [N, 4] of a network image of `size` in the coordinates of the original image, clipped to it;
 * instances whose box becomes empty are dropped.
 */
Instances to_original(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& labels,
                      const ImageSize& size, const ImageSize& original);

}  // namespace instseg
