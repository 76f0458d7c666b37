// SPDX-License-Identifier: Apache-2.0
#include "kernels/box_loss.h"

namespace instseg::kernels {

double box_loss_cpu(const float* pred, const float* target, const float* weight, int64_t n,
                    BoxLossParams params, float* grad) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double scale = weight ? weight[i] : 1.0;
    const BoxPair pair = box_pair(pred + 4 * i, target + 4 * i, params.smoothing);
    sum += scale * box_loss_value(pair, params.kind);
    if (grad) box_loss_slope(pair, pred + 4 * i, target + 4 * i, params.kind, scale, grad + 4 * i);
  }
  return sum;
}

void box_iou_cpu(const float* pred, const float* target, int64_t n, double smoothing, float* iou) {
  for (int64_t i = 0; i < n; ++i) {
    iou[i] = static_cast<float>(box_pair(pred + 4 * i, target + 4 * i, smoothing).iou);
  }
}

}  // namespace instseg::kernels
