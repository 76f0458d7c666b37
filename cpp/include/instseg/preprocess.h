// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "instseg/config.h"
#include "instseg/instances.h"

namespace instseg {

/** Network input for several images: normalised, zero-padded at the right and bottom to a common size. */
struct ImageBatch {
  at::Tensor pixels;                      // [B, 3, H, W] float32
  std::vector<ImageSize> sizes;           // of each image inside `pixels`, before padding
  std::vector<ImageSize> original_sizes;  // of each image before resizing
};

/** Size after the shortest-edge rule of `config` (docs/preprocessing.md, "Resize rules"). */
ImageSize network_size(const ImageSize& original, const InputConfig& config);

/**
 * Resizes one RGB image, uint8 [H, W, 3], to `size` with the kernel named by `kernel`:
 * "pillow" and "opencv" return uint8, "float" returns float32 (bilinear, half-pixel centres, no
 * anti-aliasing).
 */
at::Tensor resize_image(const at::Tensor& image, const ImageSize& size, const std::string& kernel);

/**
 * Normalises and pads RGB images [H, W, 3] (uint8, or float32 in 0..255) that already have network size, in
 * one pass; the result lies in channels_last memory. `original_sizes` defaults to the images' own sizes.
 * Throws ValueError on other shapes and dtypes.
 */
ImageBatch make_batch(const std::vector<at::Tensor>& images, const InputConfig& config,
                      std::vector<ImageSize> original_sizes = {});

/** resize_image to network_size, then make_batch: all that happens to pixels before the network. */
ImageBatch preprocess(const std::vector<at::Tensor>& images, const InputConfig& config);

}  // namespace instseg
