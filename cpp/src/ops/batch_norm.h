// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace instseg {

/**
 * Batch normalisation with the statistics of this batch (Ioffe and Szegedy 2015), with gradient; updates the
 * running statistics by `momentum` (variance unbiased). x [N, C, H, W]; all vectors [C]. As at::batch_norm,
 * but statistics of float32 channels-last maps on the CPU are summed in double.
 */
at::Tensor batch_norm_train(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                            const at::Tensor& running_mean, const at::Tensor& running_var, double momentum,
                            double eps);

/**
 * batch_norm_train with the statistics of all workers' batches, which may differ in size. `sum` adds up a
 * float64 vector over the workers; it is called once in the forward pass and once in the backward pass. The
 * gradient is that of the sum of all workers' losses; those of weight and bias are this worker's share.
 */
at::Tensor batch_norm_sync(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                           const at::Tensor& running_mean, const at::Tensor& running_var, double momentum,
                           double eps, const std::function<at::Tensor(const at::Tensor&)>& sum);

}  // namespace instseg
