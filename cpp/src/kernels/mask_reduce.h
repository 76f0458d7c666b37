// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/mask_runs.h"

namespace instseg::kernels {

/** One axis of a mask's reduction: the two pixels each output mixes, found from the pixels' side. */
struct ReduceAxis {
  std::vector<int32_t> weight0, weight1;  // [out], in units of 1 / 2^11
  std::vector<int32_t> first0, first1;    // [in + 1]: first output whose pixel 0 (1) is this one or a later
  int64_t size() const { return static_cast<int64_t>(weight0.size()); }
};

/** OpenCV's INTER_LINEAR from `in` to floor(in / factor + 1/2) pixels; none where that is 0. `factor` is
 * even.
 */
ReduceAxis reduce_axis(int64_t in, int64_t factor);

/** Rows top..bottom-1 and columns left..right-1. */
struct Extent {
  int64_t top = 0, bottom = 0, left = 0, right = 0;
};

/** The smallest that holds all pixels of a mask that has any. */
Extent extent(const Runs& runs, int64_t height);

/**
 * Reduces a mask of 0 and 1 as OpenCV reduces uint8 images: resize_opencv of one channel. `extent` is that of
 * the mask, whose `height` may be less than the rows of the axis: what follows is 0. Writes the outputs that
 * touch it to `out`, zeros before, whose rows lie `pitch` apart.
 */
void reduce_mask(const Runs& runs, int64_t height, const Extent& extent, const ReduceAxis& rows,
                 const ReduceAxis& columns, int64_t pitch, uint8_t* out);

}  // namespace instseg::kernels
