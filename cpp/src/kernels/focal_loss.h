// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/scalar_kind.h"

namespace instseg::kernels {

/** The two parameters of the loss. */
struct FocalParams {
  float alpha;
  float gamma;
};

/** Sum of the loss over rows begin..end-1 of logits [n, classes] with labels [n], accumulated in double. */
double focal_loss_cpu(const void* logits, ScalarKind kind, const int64_t* labels, int64_t begin, int64_t end,
                      int64_t classes, FocalParams params);

/** grad [n, classes] (of the logits' kind) = scale * d loss / d logits, rows begin..end-1. */
void focal_loss_backward_cpu(const void* logits, ScalarKind kind, const int64_t* labels, int64_t begin,
                             int64_t end, int64_t classes, FocalParams params, float scale, void* grad);

/** Number of partial sums that `focal_loss_cuda` writes. */
constexpr int64_t kFocalPartials = 1024;

/** partials [kFocalPartials] receives sums in a fixed order: the loss is their sum. */
void focal_loss_cuda(const void* logits, ScalarKind kind, const int64_t* labels, int64_t rows,
                     int64_t classes, FocalParams params, double* partials, void* stream);

/** `scale` [1] is on the device. */
void focal_loss_backward_cuda(const void* logits, ScalarKind kind, const int64_t* labels, int64_t rows,
                              int64_t classes, FocalParams params, const float* scale, void* grad,
                              void* stream);

}  // namespace instseg::kernels
