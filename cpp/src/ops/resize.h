// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "instseg/instances.h"

namespace instseg {

/**
 * Resizes a mask or label map, uint8 [H, W], to `size` by copying the nearest source pixel: `rule` "pillow"
 * is Pillow's NEAREST (its accumulated coordinate), "opencv" OpenCV's INTER_NEAREST. CPU and CUDA; throws
 * ValueError and TypeError.
 */
at::Tensor resize_mask(const at::Tensor& mask, const ImageSize& size, const std::string& rule);

}  // namespace instseg
