// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/mask_runs.h"

namespace instseg::kernels {

/**
 * RoIAlign (He et al., Mask R-CNN, section 3; the "aligned" variant, half a pixel up and left) of a 0/1 mask
 * over a box x1, y1, x2, y2 with ceil(side / size) samples a bin and axis, in float32. out [size, size]: 1
 * where the mean is at least 1/2. Memory: the part of the image inside the box.
 */
void align_runs(const Runs& runs, int64_t height, int64_t width, const float* box, int64_t size,
                uint8_t* out);

}  // namespace instseg::kernels
