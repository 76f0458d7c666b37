// SPDX-License-Identifier: Apache-2.0
#include "kernels/fcos_targets.h"
#include "kernels/launch.cuh"

namespace instseg::kernels {
namespace {

// One thread per location of the level, all images; it walks the boxes of its image.
__global__ void assign(AssignLevel level, AssignRule rule, const float* boxes, const int64_t* labels,
                       const float* centers, const int64_t* starts, int64_t locations, int64_t background,
                       int64_t* out_labels, float* out_reg, int64_t* out_gt) {
  const int64_t i = thread_index();
  if (i >= locations) return;
  const int64_t cells = level.height * level.width, image = i / cells, cell = i % cells;
  const float x = static_cast<float>(cell % level.width * level.step_x + level.offset);
  const float y = static_cast<float>(cell / level.width * level.step_y + level.offset);
  float smallest = 0;
  int64_t best = -1;
  for (int64_t g = starts[image]; g < starts[image + 1]; ++g) {
    const float* box = boxes + 4 * g;
    const float* center = centers ? centers + 2 * g : nullptr;
    const float area = box_area(box);
    if (!(area < INFINITY) || (best >= 0 && !(area < smallest))) continue;
    if (!assignable(level, rule, box, center_x(box, center), center_y(box, center), x, y)) continue;
    smallest = area;
    best = g;
  }
  const int64_t row = level.first + i;
  out_labels[row] = best < 0 ? background : labels[best];
  out_gt[row] = best;
  if (best < 0) return;  // reg holds zeros already
  const SideDistances d = side_distances(boxes + 4 * best, x, y);
  out_reg[4 * row] = div_rn(d.left, level.stride);
  out_reg[4 * row + 1] = div_rn(d.top, level.stride);
  out_reg[4 * row + 2] = div_rn(d.right, level.stride);
  out_reg[4 * row + 3] = div_rn(d.bottom, level.stride);
}

}  // namespace

void assign_cuda(const AssignLevel& level, AssignRule rule, const float* boxes, const int64_t* labels,
                 const float* centers, const int64_t* starts, int64_t images, int64_t background,
                 int64_t* out_labels, float* out_reg, int64_t* out_gt, void* stream) {
  const int64_t locations = images * level.height * level.width;
  if (locations == 0) return;
  assign<<<blocks_for(locations), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      level, rule, boxes, labels, centers, starts, locations, background, out_labels, out_reg, out_gt);
  check_launch("fcos_targets");
}

}  // namespace instseg::kernels
