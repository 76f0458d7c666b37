// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <variant>
#include <vector>

#include "instseg/image_size.h"
#include "instseg/rle.h"

namespace instseg {

/** Polygons of one object: flat x0, y0, x1, y1, ... in continuous pixel coordinates; their union is the mask.
 */
using Polygons = std::vector<std::vector<double>>;

/** Columns x .. x + width - 1 and rows y .. y + height - 1 of an image. */
struct PixelBox {
  int64_t x = 0, y = 0, width = 0, height = 0;
};

/**
 * Ground-truth masks of one image, kept as polygons and run lengths until an op rasterises them
 * (instseg/ops/rasterize.h). A value type: resized, flipped, cropped and selected ones are new objects.
 */
class MaskTargets {
 public:
  MaskTargets() = default;
  /** No masks yet of an image of `size`. */
  explicit MaskTargets(const ImageSize& size) : size_(size) {}

  /** Throws ValueError on no polygon, fewer than three points, an odd count or a coordinate that is not
   * finite. */
  void add(Polygons polygons);
  /** Throws ValueError unless the run lengths are of the image's size and fill it. */
  void add(Rle rle);

  int64_t size() const { return static_cast<int64_t>(items_.size()); }
  const ImageSize& image_size() const { return size_; }
  const std::vector<std::variant<Polygons, Rle>>& items() const { return items_; }

  /** Of the image resized to `size`: polygons in double, run lengths by Pillow's nearest neighbour. Throws
   * ValueError on a size below 1x1. */
  MaskTargets resized(const ImageSize& size) const;
  /** Of the mirrored image: x becomes width - x. */
  MaskTargets flipped() const;
  /** Of the part `box` of the image: polygons are intersected with it, run lengths cut; a mask of which
   * nothing remains is empty. Throws ValueError unless the part has pixels and lies in the image. */
  MaskTargets cropped(const PixelBox& box) const;
  /** Masks at `index`, in that order. Throws ValueError on an index outside 0..size()-1. */
  MaskTargets select(const std::vector<int64_t>& index) const;
  /** Run lengths on a canvas of at least the image's size: polygons by the rule of the COCO API, also beyond
   * the image; run lengths with zeros beyond it. Throws ValueError on a smaller canvas or one of more than
   * 2^32 - 1 pixels. */
  std::vector<Rle> rle(const ImageSize& canvas) const;
  /** Pixels inside each mask, on the image; what is 0 trains nothing. */
  std::vector<int64_t> areas() const;
  /** Tight box x1, y1, x2, y2 of each mask: of a polygon's points, of the pixels of run lengths (the right
   * edge of the last one); zeros for run lengths without a pixel. */
  std::vector<std::array<double, 4>> boxes() const;
  bool operator==(const MaskTargets&) const = default;

 private:
  ImageSize size_;
  std::vector<std::variant<Polygons, Rle>> items_;
};

}  // namespace instseg
