// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/scalar_kind.h"

namespace instseg::kernels {

/** Maps [maps, pixels] and the masks they are compared with. */
struct DiceInput {
  const void* values;  // [maps, pixels] of `kind`
  ScalarKind kind;
  const uint8_t* masks;  // [masks, pixels], 0 or 1
  const int64_t* index;  // [maps], or null: map i has mask i
  int64_t maps, pixels;
  bool logits;  // values go through a sigmoid
};

/** sums [maps, 2] receives sum(p g) and sum(p^2) + sum(g), for maps begin..end-1. */
void dice_sums_cpu(const DiceInput& input, int64_t begin, int64_t end, float* sums);

/** grad [maps, pixels] of the values' kind, for maps begin..end-1: (by_p * p + by_g * g) * dp / dvalue,
 * slopes [maps, 2] holding by_p and by_g. */
void dice_backward_cpu(const DiceInput& input, const float* slopes, int64_t begin, int64_t end, void* grad);

void dice_sums_cuda(const DiceInput& input, float* sums, void* stream);
void dice_backward_cuda(const DiceInput& input, const float* slopes, void* grad, void* stream);

}  // namespace instseg::kernels
