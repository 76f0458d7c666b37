// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "instseg/instances.h"
#include "instseg/ops/rasterize.h"

namespace instseg {

/** The masks of `targets` of image `image`, one per box; ValueError when they are missing or of another image
 * size. */
const MaskTargets& masks_of(const Targets& targets, const ImageSize& size, size_t image);

/**
 * Filled boxes [G, 4] as masks: rows int(y1) .. int(y2 + 1) - 1 and columns likewise, cut to the canvas
 * (BoxInst; docs/models.md).
 */
RasterizedMasks rasterize_boxes(const at::Tensor& boxes, const ImageSize& canvas, int64_t stride,
                                int64_t offset);

}  // namespace instseg
