// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "instseg/config.h"
#include "instseg/instances.h"
#include "instseg/ops/fcos_decode.h"

namespace instseg {

/** Candidates that survive class-wise NMS and the limit on detections, best first: indices into `candidates`.
 */
at::Tensor select_detections(const FcosCandidates& candidates, const PostConfig& post);

/**
 * Boxes [N, 4] of a network image of `size` in the coordinates of the original image, clipped to it;
 * instances whose box becomes empty are dropped. Returns the rows that stay as well, [M] int64.
 */
std::pair<Instances, at::Tensor> to_original(const at::Tensor& boxes, const at::Tensor& scores,
                                             const at::Tensor& labels, const ImageSize& size,
                                             const ImageSize& original);

/** Rows begin .. begin + count - 1 in memory of their own, so that one result does not keep a batch's alive.
 */
at::Tensor own_rows(const at::Tensor& rows, int64_t begin, int64_t count);

}  // namespace instseg
