// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace instseg::kernels {

/** Grid of one level of SOLO over a canvas of `height` x `width` px; arithmetic is float32 throughout. */
struct CellGrid {
  int64_t cells;               // per side
  float height, width;         // px
  float min_scale, max_scale;  // px, of sqrt(box area), inclusive
  float center_region;         // share of the box
};

/** Rows top..bottom and columns left..right of cells, inclusive; empty where top > bottom or left > right. */
struct CellRegion {
  int64_t top, bottom, left, right;
};

/** Cells of an object with `box` x1, y1, x2, y2 and center of mass (x, y); empty outside the level's scales.
 */
CellRegion cells_of(const CellGrid& grid, const float* box, float x, float y);

}  // namespace instseg::kernels
