// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace instseg::kernels {

/** Class logits of one grid, dense: [classes, height, width], or [height, width, classes] when channels_last.
 */
struct GridView {
  const float* logits;
  int64_t classes, height, width;
  bool channels_last;
};

struct GridCandidate {
  int64_t cell, label;
  float score;
};

/**
 * Candidates by cell, then label: sigmoids > `threshold` that are no smaller than those above, to the left
 * and above-left.
 */
std::vector<GridCandidate> points_nms_cpu(const GridView& view, double threshold);

}  // namespace instseg::kernels
