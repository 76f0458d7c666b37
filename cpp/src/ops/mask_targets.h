// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "instseg/instances.h"
#include "instseg/mask_targets.h"
#include "kernels/mask_runs.h"

namespace instseg {

/** Runs of every mask on a canvas (MaskTargets::rle); `function` is named in errors. */
std::vector<kernels::Runs> runs_on(const char* function, const MaskTargets& masks, const ImageSize& canvas);

/**
 * The masks of `targets` of image `image`, one per box and of `size`; none when there are no boxes. Throws
 * ValueError in the name of `function` when they are missing, of another number or of another image size.
 */
const MaskTargets& masks_of(const char* function, const Targets& targets, const ImageSize& size,
                            size_t image);

}  // namespace instseg
