// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace instseg {

/**
 * Batch normalisation with the statistics of this batch (Ioffe and Szegedy 2015), with gradient; updates the
 * running statistics by `momentum` (variance unbiased). x [N, C, H, W]; all vectors [C]. As at::batch_norm,
 * but statistics of float32 channels-last maps on the CPU are summed in double.
 */
at::Tensor batch_norm_train(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                            const at::Tensor& running_mean, const at::Tensor& running_var, double momentum,
                            double eps);

}  // namespace instseg
