// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace instseg {

/**
 * Class-wise non-maximum suppression.
 *
 * boxes  [N, 4] float32 x1, y1, x2, y2;  scores [N] float32;  labels [N] int64.
 * Returns the kept indices, int64, by descending score (ties: lower index first). A box is dropped when its
 * IoU with a kept box of the same label is > `iou_threshold`. `class_offset`: one NMS over boxes shifted by
 * label * (largest coordinate + 1), which can suppress across classes when boxes have negative coordinates;
 * only for reproducing implementations that do so (docs/ops.md, "nms"). CPU and CUDA. Throws ValueError on
 * other shapes, TypeError on other dtypes.
 */
at::Tensor nms(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& labels,
               double iou_threshold, bool class_offset = false);

}  // namespace instseg
