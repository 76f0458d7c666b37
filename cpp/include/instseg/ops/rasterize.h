// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "instseg/mask_targets.h"

namespace instseg {

/** What training needs of G ground-truth masks on a canvas, without their full bitmaps. */
struct RasterizedMasks {
  at::Tensor sampled;  // [G, h, w] uint8: pixels at rows and columns offset, offset + stride, ...
  at::Tensor centers;  // [G, 2] float32 x, y: mean index of the pixels inside; 0, 0 for an empty mask
  at::Tensor areas;    // [G] int64 pixels inside
};

/**
 * Rasterises masks on a padded canvas as the COCO API does (polygons: boundary traced at 5x, union of the
 * parts) and samples them. Works on run lengths: memory is that of the result. CPU. Throws ValueError on a
 * canvas smaller than the image, stride < 1 or offset < 0. (docs/ops.md)
 */
RasterizedMasks rasterize(const MaskTargets& masks, const ImageSize& canvas, int64_t stride, int64_t offset);

/**
 * Each mask inside its own box, [G, size, size] uint8: polygons moved and scaled into the frame of the box
 * and rasterised there; run lengths by aligned RoIAlign with ceil(box / size) samples a bin, inside from 0.5.
 * boxes [G, 4] float32 in the coordinates of the masks, finite. CPU. Throws ValueError and TypeError on other
 * boxes. (BlendMask's targets, docs/ops.md.)
 */
at::Tensor rasterize_in_boxes(const MaskTargets& masks, const at::Tensor& boxes, int64_t size);

/**
 * Class of the mask with the smallest area at every sampled pixel of the canvas, [h, w] int64; -1 where there
 * is none; of equal areas the first. labels [G] int64, >= 0. CPU. (CondInst's semantic targets, docs/ops.md.)
 */
at::Tensor smallest_class_map(const MaskTargets& masks, const at::Tensor& labels, const ImageSize& canvas,
                              int64_t stride, int64_t offset);

/**
 * Class + 1 of the last mask that covers each pixel of the image, 0 where there is none: [H, W], uint8 when
 * all classes fit, int64 otherwise. labels [G] int64, >= 0. CPU. (BlendMask's semantic targets, docs/ops.md.)
 */
at::Tensor class_map(const MaskTargets& masks, const at::Tensor& labels);

/** Resizes a [H, W] map of any dtype to `size` by Pillow's nearest neighbour (docs/ops.md). CPU. */
at::Tensor resize_nearest(const at::Tensor& map, const ImageSize& size);

}  // namespace instseg
