// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace instseg {

/** Positions of a feature map's cells in the network image: cell (row j, column i) is at (i*step + offset).
 */
struct LocationGrid {
  int64_t height = 0;  // cells
  int64_t width = 0;   // cells
  int64_t step_x = 1;  // px
  int64_t step_y = 1;  // px
  int64_t offset = 0;  // px, both axes
};

/** [height*width, 2] float32 x, y; row-major, x fastest. CPU and CUDA. */
at::Tensor locations(const LocationGrid& grid, at::Device device);

}  // namespace instseg
