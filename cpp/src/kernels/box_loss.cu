// SPDX-License-Identifier: Apache-2.0
#include "kernels/box_loss.h"
#include "kernels/launch.cuh"

namespace instseg::kernels {
namespace {

__global__ void write_losses(const float* pred, const float* target, const float* weight, int64_t n,
                             BoxLossParams params, double* losses, float* grad) {
  const int64_t i = thread_index();
  if (i >= n) return;
  const double scale = weight ? static_cast<double>(weight[i]) : 1.0;
  const BoxPair pair = box_pair(pred + 4 * i, target + 4 * i, params.smoothing);
  losses[i] = scale * box_loss_value(pair, params.kind);
  if (grad) box_loss_slope(pair, pred + 4 * i, target + 4 * i, params.kind, scale, grad + 4 * i);
}

__global__ void write_ious(const float* pred, const float* target, int64_t n, double smoothing, float* iou) {
  const int64_t i = thread_index();
  if (i >= n) return;
  iou[i] = static_cast<float>(box_pair(pred + 4 * i, target + 4 * i, smoothing).iou);
}

}  // namespace

void box_loss_cuda(const float* pred, const float* target, const float* weight, int64_t n,
                   BoxLossParams params, double* losses, float* grad, void* stream) {
  if (n == 0) return;
  write_losses<<<blocks_for(n), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(pred, target, weight, n,
                                                                                  params, losses, grad);
  check_launch("box_loss");
}

void box_iou_cuda(const float* pred, const float* target, int64_t n, double smoothing, float* iou,
                  void* stream) {
  if (n == 0) return;
  write_ious<<<blocks_for(n), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(pred, target, n, smoothing,
                                                                                iou);
  check_launch("box_iou");
}

}  // namespace instseg::kernels
