// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "instseg/config.h"
#include "instseg/instances.h"
#include "instseg/ops/locations.h"

namespace instseg {

/** One pyramid level as target assignment sees it. */
struct TargetLevel {
  LocationGrid grid;
  double stride = 8;   // px: center sampling radius and regression unit
  double lower = 0;    // px, bounds on max(l, t, r, b)
  double upper = 1e8;  // px
};

/** Assignment of every location, order: levels, then images, then rows, then columns. L = all levels and
 * images. */
struct FcosTargets {
  at::Tensor labels;    // [L] int64, `num_classes` for background
  at::Tensor reg;       // [L, 4] float32 l, t, r, b in strides (0 at background)
  at::Tensor gt_index;  // [L] int64, ground truth counted through the images of the batch; -1 at background
};

/**
 * Assigns each location the smallest ground-truth box whose center region contains it and whose size fits the
 * level (FCOS section 3, docs/models.md "FCOS targets"). `centers` [G, 2] per image replaces the box centers
 * when given (mask centroids); empty vector: box centers. One pass, no locations x boxes tensor. CPU and
 * CUDA.
 */
FcosTargets fcos_targets(const std::vector<TargetLevel>& levels, const std::vector<Targets>& targets,
                         int64_t num_classes, const TargetConfig& config,
                         const std::vector<at::Tensor>& centers = {});

/** Centerness of distances [P, 4]: sqrt(min(l,r)/max(l,r) * min(t,b)/max(t,b)), [P] float32. */
at::Tensor centerness_of(const at::Tensor& reg);

}  // namespace instseg
