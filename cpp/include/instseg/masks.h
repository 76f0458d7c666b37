// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "instseg/image_size.h"
#include "instseg/rle.h"

namespace instseg {

/** The part of a mask inside its tight box. */
struct MaskCrop {
  int64_t x = 0, y = 0;  // px, top left corner in the image
  at::Tensor bitmap;     // uint8 [h, w], 1 inside; [0, 0] for an empty mask
};

/**
 * Masks of one image's instances: probabilities at the network's resolution and how they map to the image.
 * Pixels of the image are computed when asked for, a few masks at a time (docs/masks.md).
 */
struct Masks {
  at::Tensor probabilities;         // [N, h, w] float32, 0..1
  std::string placement = "image";  // "image": maps of the padded network image; "box": each of its box
  int64_t stride = 4;               // "image": network pixels per cell
  std::string enlarge =
      "aligned";  // "image": cells to pixels by "aligned" (aligned_bilinear) or "half_pixel" bilinear
  ImageSize network_size;  // "image": of the image inside the padded map, px
  at::Tensor boxes;        // "box": [N, 4] float32 x1, y1, x2, y2 in the image, px
  double threshold = 0.5;
  bool inclusive = false;  // inside is probability >= threshold instead of >
  ImageSize image_size;    // of the original image

  bool defined() const { return probabilities.defined(); }
  int64_t size() const { return defined() ? probabilities.size(0) : 0; }
  /** Masks at `index` [M] int64 or bool [N], on the same device. */
  Masks select(const at::Tensor& index) const;
  Masks to(at::Device device) const;

  /** uint8 [N, H, W], 1 inside, on the device of the probabilities. */
  at::Tensor bitmaps() const;
  /** Run lengths of every mask; no bitmap is made. */
  std::vector<Rle> rle() const;
  /** The smallest boxes around the pixels inside, [N, 4] float32 x1, y1, x2, y2 on the CPU; zeros for an
   * empty mask.
   */
  at::Tensor tight_boxes() const;
  /** Pixels inside, [N] int64 on the CPU. */
  at::Tensor area() const;
  /** Outer outlines along pixel edges, per instance a list of [V, 2] float32 x, y; holes are dropped. */
  std::vector<std::vector<at::Tensor>> polygons() const;
  /** Tight crops, on the CPU. */
  std::vector<MaskCrop> crops() const;
};

}  // namespace instseg
