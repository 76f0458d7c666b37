// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace instseg {

/** Names of the 80 COCO "thing" classes, by label. */
const std::vector<std::string>& coco_class_names();

/** COCO category id of each of the 80 labels, ascending. */
const std::vector<int64_t>& coco_category_ids();

/** The 91 names of models whose labels are COCO ids: "background" at 0, "N/A" for ids without a class. */
std::vector<std::string> coco91_class_names();

}  // namespace instseg
