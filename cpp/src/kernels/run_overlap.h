// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/mask_runs.h"
#include "kernels/runs.h"

namespace instseg::kernels {

/** The smallest box around a mask; without extent when it is empty. */
PixelBox box_of_runs(const Runs& runs, int64_t height);

/** Whether two boxes share a pixel. */
bool boxes_meet(const PixelBox& a, const PixelBox& b);

/** Pixels of a mask, and those in both of two. */
int64_t area_of_runs(const Runs& runs);
int64_t shared_pixels(const Runs& a, const Runs& b);

}  // namespace instseg::kernels
