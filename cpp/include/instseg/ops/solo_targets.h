// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "instseg/config.h"
#include "instseg/image_size.h"
#include "instseg/instances.h"

namespace instseg {

/** Category grid and positive cells of one level, for all images of a batch. Nothing is stored for empty
 * cells but their label. */
struct SoloTargets {
  at::Tensor labels;   // [B, S, S] int64, `num_classes` where there is no object
  at::Tensor images;   // [P] int64 image of each positive, ascending
  at::Tensor cells;    // [P] int64 row * S + column
  at::Tensor masks;    // [M, h, w] uint8: target masks of the objects that own a cell, 1 inside
  at::Tensor mask_of;  // [P] int64 row of `masks`
};

/**
 * Assigns objects to the cells around their centers of mass (Wang et al., SOLO, ECCV 2020, section 3.3;
 * docs/models.md "SOLO targets"), one result per level. `targets` carry boxes in the convention their scales
 * are measured in, and masks; `sizes` are of the images inside `canvas`, the padded size of the batch, a
 * multiple of 32. Head "solov2": masks have stride 4 and every object keeps its cells, in order of
 * assignment, also where a later one takes the label; other heads: strides 4, 4, 8, 16, 16, the last object
 * takes a cell, cells ascend. An object without pixels is left out; one that vanishes at a level's stride is
 * a positive whose mask is empty. CPU. Throws ValueError on missing masks, on labels outside
 * 0..num_classes-1, on sizes that do not fit and on a config that does not check.
 */
std::vector<SoloTargets> solo_targets(const std::vector<Targets>& targets,
                                      const std::vector<ImageSize>& sizes, const ImageSize& canvas,
                                      int64_t num_classes, const SoloConfig& config);

}  // namespace instseg
