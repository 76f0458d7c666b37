// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "instseg/coco_evaluation.h"

namespace instseg {

/** Curves of every class from its records, in the order of images. */
CocoCurves accumulate(const std::vector<std::vector<const CocoRecord*>>& records,
                      const std::vector<int64_t>& limits);

}  // namespace instseg
