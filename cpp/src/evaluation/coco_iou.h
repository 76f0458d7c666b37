// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "instseg/coco_evaluation.h"
#include "kernels/mask_runs.h"
#include "kernels/runs.h"

namespace instseg {

/** A mask with what its comparisons need. */
struct MaskRegion {
  kernels::Runs runs;
  kernels::PixelBox box;
  int64_t area = 0;
};

/** Regions of all masks of an image; `function` is named in errors. */
std::vector<MaskRegion> regions_of(const char* function, const MaskTargets& masks);

/** Overlap of a detection with an object; of a crowd the share of the detection inside it. */
double iou_of(const CocoBox& found, const CocoBox& truth, bool crowd);
double iou_of(const MaskRegion& found, const MaskRegion& truth, bool crowd);

}  // namespace instseg
