// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "instseg/instances.h"

namespace instseg {

/** Images with more pixels than this are refused unless the caller raises the limit. */
inline constexpr int64_t kDefaultPixelLimit = 178'956'970;

/**
 * Decodes a JPEG or PNG file to RGB, uint8 [H, W, 3]: EXIF orientation applied; grey, CMYK, palette, 16-bit
 * and alpha images converted as Pillow's convert("RGB") does. The format is taken from the content. Throws
 * IoError when the file cannot be read and ValueError, naming the file, when it is empty, truncated, no
 * image, over `pixel_limit`, or when this build lacks the decoder.
 */
at::Tensor read_image(const std::string& path, int64_t pixel_limit = kDefaultPixelLimit);

/** read_image for bytes in memory; `name` is used in messages. */
at::Tensor decode_image(const uint8_t* bytes, size_t size, const std::string& name = "image",
                        int64_t pixel_limit = kDefaultPixelLimit);

/** Writes an RGB image, uint8 [H, W, 3], as PNG (".png") or JPEG (".jpg", ".jpeg", quality 95) by extension.
 */
void write_image(const std::string& path, const at::Tensor& image);

/** Formats read_image can decode in this build, e.g. {"jpeg", "png"}. */
std::vector<std::string> image_decoders();

/** Options of draw_instances. */
struct DrawOptions {
  double score_threshold = 0.3;  // instances below are not drawn
  bool labels = true;            // class name and score above each box
  int64_t line_width = 0;        // px; 0: from the image size
  bool masks = true;             // where there are any: filled at half opacity, with a contour
  bool boxes = true;             // outlines of the boxes
};

/**
 * A copy of `image` (RGB uint8 [H, W, 3]) with masks, boxes and labels drawn, the best instance on top. With
 * masks the colour is that of the instance's index (neighbours of a class differ), without it of its label.
 */
at::Tensor draw_instances(const at::Tensor& image, const Instances& instances,
                          const std::vector<std::string>& class_names, const DrawOptions& options = {});

}  // namespace instseg
