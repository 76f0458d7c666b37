// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace instseg::kernels {

/** Whether any of the values is above the bound: one vectorised comparison dismisses a block of logits. */
bool any_above_float(const float* values, int64_t n, float bound);

inline float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

/** Logits at or below this have a float32 sigmoid <= `probability`. The margin covers the sigmoid's rounding.
 */
inline float logit_bound(double probability) {
  const double p = probability * (1 - 1e-4);
  if (p <= 0) return -std::numeric_limits<float>::infinity();
  if (p >= 1) return std::numeric_limits<float>::infinity();
  return static_cast<float>(std::log(p / (1 - p)));
}

}  // namespace instseg::kernels
