// SPDX-License-Identifier: Apache-2.0
#include "kernels/fcos_targets.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace instseg::kernels {
namespace {

// Cells whose location may lie strictly between two coordinates, one more on each side: the exact test
// follows.
struct CellRange {
  int64_t begin, end;
};

CellRange cells_between(double low, double high, int64_t step, int64_t offset, int64_t size) {
  const double limit = static_cast<double>(size);
  const double first = std::floor((low - static_cast<double>(offset)) / static_cast<double>(step)) - 1;
  const double last = std::ceil((high - static_cast<double>(offset)) / static_cast<double>(step)) + 2;
  if (!(first < limit) || !(last > 0)) return {0, 0};  // also NaN
  return {static_cast<int64_t>(std::max(first, 0.0)), static_cast<int64_t>(std::min(last, limit))};
}

CellRange cells_of(float low, float high, float center, float radius, int64_t step, int64_t offset,
                   int64_t size) {
  double from = low, to = high;
  if (radius > 0) {
    from = std::max(from, static_cast<double>(center) - radius);
    to = std::min(to, static_cast<double>(center) + radius);
  }
  return cells_between(from, to, step, offset, size);
}

}  // namespace

void assign_cpu(const AssignLevel& level, AssignRule rule, const float* boxes, const int64_t* labels,
                const float* centers, int64_t count, int64_t first_gt, int64_t* out_labels, float* out_reg,
                int64_t* out_gt) {
  std::vector<float> best(level.height * level.width, std::numeric_limits<float>::infinity());
  for (int64_t g = 0; g < count; ++g) {
    const float* box = boxes + 4 * g;
    const float* center = centers ? centers + 2 * g : nullptr;
    const float cx = center_x(box, center), cy = center_y(box, center), area = box_area(box);
    const CellRange rows =
        cells_of(box[1], box[3], cy, level.radius, level.step_y, level.offset, level.height);
    const CellRange columns =
        cells_of(box[0], box[2], cx, level.radius, level.step_x, level.offset, level.width);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const float y = static_cast<float>(row * level.step_y + level.offset);
      for (int64_t column = columns.begin; column < columns.end; ++column) {
        const float x = static_cast<float>(column * level.step_x + level.offset);
        const int64_t cell = row * level.width + column;
        if (!(area < best[cell]) || !assignable(level, rule, box, cx, cy, x, y)) continue;
        best[cell] = area;
        const SideDistances d = side_distances(box, x, y);
        out_labels[cell] = labels[g];
        out_gt[cell] = first_gt + g;
        float* reg = out_reg + 4 * cell;
        reg[0] = d.left / level.stride;
        reg[1] = d.top / level.stride;
        reg[2] = d.right / level.stride;
        reg[3] = d.bottom / level.stride;
      }
    }
  }
}

}  // namespace instseg::kernels
