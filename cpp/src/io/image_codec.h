// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <csetjmp>
#include <cstdint>
#include <string>
#include <vector>

#include "instseg/image.h"

namespace instseg {

/** An encoded image; `name` stands in messages. */
struct EncodedImage {
  const uint8_t* bytes;
  size_t size;
  const std::string& name;
};

/** Pixels as they are stored, uint8 [H, W, 3] RGB, and the EXIF orientation (1..8) that has still to be
 * applied. */
struct DecodedImage {
  at::Tensor pixels;
  int orientation = 1;
};

// One pair per format: image_jpeg.cpp and image_png.cpp, or no_jpeg.cpp and no_png.cpp, which throw
// ValueError.
bool has_jpeg();
bool has_png();
DecodedImage decode_jpeg(const EncodedImage& image, int64_t pixel_limit);
DecodedImage decode_png(const EncodedImage& image, int64_t pixel_limit);
/** `image` is uint8 [H, W, 3], contiguous, on the CPU. */
std::vector<uint8_t> encode_jpeg(const at::Tensor& image);
std::vector<uint8_t> encode_png(const at::Tensor& image);

/** Throws ValueError when an image has too many pixels; called with the header's values, before any
 * allocation. */
void check_pixel_count(const std::string& name, int64_t width, int64_t height, int64_t pixel_limit);
/** The orientation tag of a TIFF structure (EXIF without its "Exif" prefix); 1 when absent or malformed. */
int exif_orientation(const uint8_t* tiff, size_t size);

/**
 * Calls `step`; false when the C library left it by longjmp to `escape`. The frames it skips must hold
 * nothing with a destructor.
 */
template <class Step>
[[gnu::noinline]] bool returns_normally(jmp_buf& escape, const Step& step) {
  if (setjmp(escape) != 0) return false;
  step();
  return true;
}

}  // namespace instseg
