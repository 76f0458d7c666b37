// SPDX-License-Identifier: Apache-2.0
// Compiled without contraction: a fused product and difference can move a border to the next cell.
#include "kernels/solo_cells.h"

#include <algorithm>
#include <cmath>

namespace instseg::kernels {
namespace {

// Python's a // b of float32 numbers, b > 0; on a border it can be one less than floor(a / b).
float floor_divide(float a, float b) {
  const float rest = std::fmod(a, b);
  const float quotient = (a - rest) / b - (rest < 0 ? 1.f : 0.f);
  const float whole = std::floor(quotient);
  return quotient - whole > 0.5f ? whole + 1 : whole;
}

// Cell of a position on an axis of `size` px; -1 stands for all before the first.
int64_t cell(float position, float size, int64_t cells) {
  const float at = floor_divide(position / size, static_cast<float>(1.0 / static_cast<double>(cells)));
  return static_cast<int64_t>(std::fmax(-1.f, std::fmin(at, static_cast<float>(cells))));
}

}  // namespace

CellRegion cells_of(const CellGrid& grid, const float* box, float x, float y) {
  const float width = box[2] - box[0], height = box[3] - box[1];
  const float scale = std::sqrt(width * height);
  if (!(scale >= grid.min_scale && scale <= grid.max_scale)) return {0, -1, 0, -1};
  const float half_width = 0.5f * width * grid.center_region;
  const float half_height = 0.5f * height * grid.center_region;
  const auto column = [&](float at) { return cell(at, grid.width, grid.cells); };
  const auto row = [&](float at) { return cell(at, grid.height, grid.cells); };
  const int64_t middle_row = row(y), middle_column = column(x), last = grid.cells - 1;
  // At most 3 x 3 cells.
  return {std::max({int64_t{0}, row(y - half_height), middle_row - 1}),
          std::min({last, row(y + half_height), middle_row + 1}),
          std::max({int64_t{0}, column(x - half_width), middle_column - 1}),
          std::min({last, column(x + half_width), middle_column + 1})};
}

}  // namespace instseg::kernels
