// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace instseg::kernels {

/**
 * Mean and biased variance of each column of a row-major [rows, channels] matrix, accumulated in double: over
 * the hundred thousand positions of a feature map, float sums lose three digits.
 */
void channel_stats(const float* x, int64_t rows, int64_t channels, float* mean, float* variance);

}  // namespace instseg::kernels
