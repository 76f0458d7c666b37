// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace instseg::kernels {

/** One level as the kernels see it; lengths in px. */
struct AssignLevel {
  int64_t height, width, step_x, step_y, offset;
  float radius;        // half side of the center region, 0: anywhere inside the box
  float lower, upper;  // bounds on the largest distance
  float stride;        // unit of the regression
  int64_t first;       // output row of image 0, location 0
};

/** The two published rules; see docs/ops.md, "fcos_targets". */
enum class AssignRule : int { fcos, torchvision };

/** Signed distances of location x, y to the sides of box x1, y1, x2, y2. */
struct SideDistances {
  float left, top, right, bottom;
};

INSTSEG_HD SideDistances side_distances(const float* box, float x, float y) {
  return {sub_rn(x, box[0]), sub_rn(y, box[1]), sub_rn(box[2], x), sub_rn(box[3], y)};
}

INSTSEG_HD float max_f(float a, float b) { return a > b ? a : b; }
INSTSEG_HD float min_f(float a, float b) { return a < b ? a : b; }
INSTSEG_HD float box_area(const float* box) { return mul_rn(sub_rn(box[2], box[0]), sub_rn(box[3], box[1])); }

/** Whether location x, y of `level` may be assigned to `box` with center cx, cy, in float32 as the originals.
 */
INSTSEG_HD bool assignable(const AssignLevel& level, AssignRule rule, const float* box, float cx, float cy,
                           float x, float y) {
  const SideDistances d = side_distances(box, x, y);
  if (!(d.left > 0 && d.top > 0 && d.right > 0 && d.bottom > 0)) return false;
  const float largest = max_f(max_f(d.left, d.right), max_f(d.top, d.bottom));
  if (rule == AssignRule::torchvision) {
    if (!(largest > level.lower && largest < level.upper)) return false;
    if (level.radius == 0) return true;
    const float dx = sub_rn(x, cx), dy = sub_rn(y, cy);
    return max_f(dx < 0 ? -dx : dx, dy < 0 ? -dy : dy) < level.radius;
  }
  if (!(largest >= level.lower && largest <= level.upper)) return false;
  if (level.radius == 0) return true;
  return sub_rn(x, max_f(sub_rn(cx, level.radius), box[0])) > 0 &&
         sub_rn(y, max_f(sub_rn(cy, level.radius), box[1])) > 0 &&
         sub_rn(min_f(add_rn(cx, level.radius), box[2]), x) > 0 &&
         sub_rn(min_f(add_rn(cy, level.radius), box[3]), y) > 0;
}

/** Center of a box, or the given one. */
INSTSEG_HD float center_x(const float* box, const float* center) {
  return center ? center[0] : mul_rn(add_rn(box[0], box[2]), 0.5f);
}
INSTSEG_HD float center_y(const float* box, const float* center) {
  return center ? center[1] : mul_rn(add_rn(box[1], box[3]), 0.5f);
}

/**
 * Assigns the locations of one level of one image. boxes [count, 4]; labels [count]; centers [count, 2] or
 * null; `first_gt`: number of boxes in the images before. The outputs of these locations hold the background
 * already.
 */
void assign_cpu(const AssignLevel& level, AssignRule rule, const float* boxes, const int64_t* labels,
                const float* centers, int64_t count, int64_t first_gt, int64_t* out_labels, float* out_reg,
                int64_t* out_gt);

/** All images of one level. boxes, labels, centers hold all images; image i owns boxes
 * starts[i]..starts[i+1]-1. */
void assign_cuda(const AssignLevel& level, AssignRule rule, const float* boxes, const int64_t* labels,
                 const float* centers, const int64_t* starts, int64_t images, int64_t background,
                 int64_t* out_labels, float* out_reg, int64_t* out_gt, void* stream);

}  // namespace instseg::kernels
