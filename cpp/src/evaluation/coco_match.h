// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "instseg/coco_evaluation.h"

namespace instseg {

constexpr int64_t kCocoAreas = 4;  // all, small, medium, large

/** Detections and objects of one class of one image. */
struct CocoPair {
  std::vector<double> scores;      // [D] descending
  std::vector<double> areas;       // [D] px^2
  std::vector<double> iou;         // [D, G]
  std::vector<double> true_areas;  // [G]
  std::vector<uint8_t> crowd;      // [G]
};

/** Greedy matching at every threshold and area: each detection, the best first, takes the object it covers
 * best among those left; crowds are never used up and come last. */
CocoRecord match(int64_t label, const CocoPair& pair);

}  // namespace instseg
