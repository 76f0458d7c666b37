// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/host_device.h"

namespace instseg::kernels {

enum class BoxLossKind : int { iou, linear_iou, giou };

/** Smoothing s > 0: IoU = (I + s) / (U + s). s = 0: I / (U + 1e-7), and 1e-7 in the enclosing term too. */
struct BoxLossParams {
  BoxLossKind kind;
  double smoothing;
};

/** Areas of a pair of boxes given as distances l, t, r, b from a common point, and the sides they come from.
 */
struct BoxPair {
  double width, height;              // of the intersection
  double outer_width, outer_height;  // of the enclosing box
  double inter, join, outer;         // areas: intersection, union, enclosing box
  double iou, iou_bottom, outer_bottom;
};

INSTSEG_HD double smaller(double a, double b) { return a < b ? a : b; }
INSTSEG_HD double larger(double a, double b) { return a > b ? a : b; }

INSTSEG_HD BoxPair box_pair(const float* p, const float* t, double smoothing) {
  const double epsilon = smoothing == 0 ? 1e-7 : 0;
  BoxPair b;
  b.width = smaller(p[0], t[0]) + smaller(p[2], t[2]);
  b.height = smaller(p[1], t[1]) + smaller(p[3], t[3]);
  b.outer_width = larger(p[0], t[0]) + larger(p[2], t[2]);
  b.outer_height = larger(p[1], t[1]) + larger(p[3], t[3]);
  b.inter = b.width * b.height;
  b.join = (static_cast<double>(p[0]) + p[2]) * (static_cast<double>(p[1]) + p[3]) +
           (static_cast<double>(t[0]) + t[2]) * (static_cast<double>(t[1]) + t[3]) - b.inter;
  b.outer = b.outer_width * b.outer_height;
  b.iou_bottom = b.join + smoothing + epsilon;
  b.outer_bottom = b.outer + epsilon;
  b.iou = (b.inter + smoothing) / b.iou_bottom;
  return b;
}

INSTSEG_HD double box_loss_value(const BoxPair& b, BoxLossKind kind) {
  if (kind == BoxLossKind::iou) return -log(b.iou);
  if (kind == BoxLossKind::linear_iou) return 1 - b.iou;
  return 1 - b.iou + (b.outer - b.join) / b.outer_bottom;
}

/** grad [4] = scale * d loss / d p. Equal sides share the gradient of min and max evenly, as in autograd. */
INSTSEG_HD void box_loss_slope(const BoxPair& b, const float* p, const float* t, BoxLossKind kind,
                               double scale, float* grad) {
  for (int side = 0; side < 4; ++side) {
    const bool horizontal = side % 2 == 0;
    const double in_min = p[side] < t[side] ? 1 : p[side] == t[side] ? 0.5 : 0;
    const double in_max = p[side] > t[side] ? 1 : p[side] == t[side] ? 0.5 : 0;
    const double across = horizontal ? static_cast<double>(p[1]) + p[3] : static_cast<double>(p[0]) + p[2];
    const double d_inter = in_min * (horizontal ? b.height : b.width);
    const double d_join = across - d_inter;
    const double d_outer = in_max * (horizontal ? b.outer_height : b.outer_width);
    const double d_iou = (d_inter - b.iou * d_join) / b.iou_bottom;
    double slope = -d_iou;
    if (kind == BoxLossKind::iou) slope = -d_iou / b.iou;
    if (kind == BoxLossKind::giou) {
      slope += (d_outer - d_join - (b.outer - b.join) / b.outer_bottom * d_outer) / b.outer_bottom;
    }
    grad[side] = static_cast<float>(scale * slope);
  }
}

/** Weighted sum over n pairs [n, 4]; weight [n] or null. grad [n, 4], unless null, receives the gradient to
 * pred. */
double box_loss_cpu(const float* pred, const float* target, const float* weight, int64_t n,
                    BoxLossParams params, float* grad);
/** iou [n]. */
void box_iou_cpu(const float* pred, const float* target, int64_t n, double smoothing, float* iou);

/** losses [n] receives the weighted terms; grad as above. */
void box_loss_cuda(const float* pred, const float* target, const float* weight, int64_t n,
                   BoxLossParams params, double* losses, float* grad, void* stream);
void box_iou_cuda(const float* pred, const float* target, int64_t n, double smoothing, float* iou,
                  void* stream);

}  // namespace instseg::kernels
