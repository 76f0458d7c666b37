// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "instseg/image_size.h"

namespace instseg {

/** A binary mask as run lengths in COCO's order: down the columns, from left to right, zeros first. */
struct Rle {
  ImageSize size;
  std::vector<uint32_t> counts;  // sum: height * width

  /** Pixels set. */
  int64_t area() const;
  /** COCO's compressed text of the counts, the "counts" of a COCO result. */
  std::string compressed() const;
  /** The reverse of compressed(); ValueError when the text is malformed or does not fill `size`. */
  static Rle from_compressed(const std::string& text, const ImageSize& size);
  /** ValueError unless the counts fill `size`. */
  void check() const;
  bool operator==(const Rle&) const = default;
};

/** uint8 [H, W], 1 inside. Throws ValueError unless the counts fill the size. */
at::Tensor rle_decode(const Rle& rle);

/** Run lengths of a bool or uint8 [H, W] bitmap on the CPU, not 0 inside; others: ValueError, TypeError. */
Rle rle_encode(const at::Tensor& bitmap);

}  // namespace instseg
