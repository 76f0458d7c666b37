// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "instseg/mask_targets.h"
#include "kernels/mask_runs.h"

namespace instseg {

/** Runs of every mask on a canvas (MaskTargets::rle); `function` is named in errors. */
std::vector<kernels::Runs> runs_on(const char* function, const MaskTargets& masks, const ImageSize& canvas);

}  // namespace instseg
