// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include "instseg/config.h"
#include "instseg/preprocess.h"

namespace instseg {

/**
 * Similarity of each pixel of the images, averaged over `stride` x `stride` pixels, to its neighbours:
 * exp(-|a - b| / 2) of CIE Lab colors, [B, size*size - 1, H/stride, W/stride] float32, row-major without the
 * center; 0 beyond the image (Tian et al., BoxInst, CVPR 2021, section 3.2; docs/models.md, "BoxInst").
 * `batch` holds images of whole grey levels, normalised by `input`.
 */
at::Tensor color_similarity(const ImageBatch& batch, const InputConfig& input, const BoxInstConfig& config,
                            int64_t stride);

/**
 * The projections of a mask on both axes should be those of its box: dice loss of the maxima over rows and
 * over columns, [P]. logits, boxes [P, h, w].
 */
at::Tensor projection_loss(const at::Tensor& logits, const at::Tensor& boxes, double eps);

/**
 * Neighbours of similar color inside the box should have one label: mean of -log P(same label) over such
 * pairs. logits [P, h, w]; similarity [P, size*size - 1, h, w]; boxes [P, h, w], 1 inside.
 */
at::Tensor pairwise_loss(const at::Tensor& logits, const at::Tensor& similarity, const at::Tensor& boxes,
                         const BoxInstConfig& config, const at::Tensor& images = {});

}  // namespace instseg
