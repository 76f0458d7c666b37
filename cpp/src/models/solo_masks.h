// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "instseg/config.h"
#include "instseg/ops/points_nms.h"
#include "layers/solo_head.h"

namespace instseg {

/** Cells of one image whose class is above the threshold, by level. */
struct SoloCandidates {
  std::vector<GridCandidates> levels;
};

SoloCandidates solo_candidates(const std::vector<at::Tensor>& logits, int64_t image, double threshold);

/** Masks of one image after suppression, best first. */
struct SoloDetections {
  at::Tensor probabilities;  // [N, H/4, W/4] float32, of the padded image
  at::Tensor scores;         // [N] float32
  at::Tensor labels;         // [N] int64
};

/**
 * Masks of the candidates, their rescoring by maskness and their suppression (SOLOv2 section 3.3;
 * docs/models.md "SOLO"). Levels with candidates must be prepared. A bounded number of masks exists at any
 * time.
 */
SoloDetections solo_masks(SoloHead& head, const SoloForward& network, int64_t image,
                          const SoloCandidates& candidates, const ModelConfig& config);

}  // namespace instseg
