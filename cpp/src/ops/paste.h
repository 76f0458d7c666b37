// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "instseg/masks.h"

namespace instseg {

/** Throws ValueError or TypeError naming `function` unless the fields of `masks` fit together. */
void check_masks(const char* function, const Masks& masks);

/** Called with the run lengths (instseg/rle.h) of mask `index`, from several threads at once. */
using UseRuns = std::function<void(int64_t index, std::vector<uint32_t>& counts)>;

/** Calls `use` once for every mask. Memory: the run lengths of one mask per thread; on CUDA those of all. */
void for_each_mask(const Masks& masks, const UseRuns& use);

/** uint8 [N, H, W], 1 inside, on the device of the probabilities. */
at::Tensor paste_bitmaps(const Masks& masks);

}  // namespace instseg
