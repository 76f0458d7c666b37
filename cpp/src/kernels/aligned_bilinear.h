// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/scalar_kind.h"

namespace instseg::kernels {

/** maps [maps, height, width, inner] to [maps, factor * height, factor * width, inner]; inner is 1 or, for
 * channels-last tensors, the channels. */
struct EnlargeShape {
  int64_t maps, height, width, inner, factor;
};

/** Output index j of an axis is (1 - weight) * input[low] + weight * input[high]. */
struct EnlargeTap {
  int64_t low, high;
  float weight;
};

INSTSEG_HD EnlargeTap enlarge_tap(int64_t j, int64_t size, int64_t factor) {
  const int64_t shifted = j < factor / 2 ? 0 : j - factor / 2;
  const int64_t low = shifted / factor;
  return {low, low + 1 < size ? low + 1 : low,
          static_cast<float>(shifted % factor) / static_cast<float>(factor)};
}

/** The output indices first..last that input i of an axis takes part in. */
struct EnlargeReach {
  int64_t first, last;
};

INSTSEG_HD EnlargeReach enlarge_reach(int64_t i, int64_t size, int64_t factor) {
  const int64_t first = factor * (i - 1) + factor / 2 + 1, last = factor * (i + 1) + factor / 2 - 1;
  return {first < 0 ? 0 : first, last < factor * size ? last : factor * size - 1};
}

/** Weight of input i in output j of its reach. */
INSTSEG_HD float enlarge_weight(int64_t i, int64_t j, int64_t size, int64_t factor) {
  const int64_t offset = j - factor / 2 - factor * i;
  if ((i == 0 && offset < 0) || (i == size - 1 && offset > 0)) return 1.0f;  // repeated edges
  return 1.0f - static_cast<float>(offset < 0 ? -offset : offset) / static_cast<float>(factor);
}

/** Output rows begin..end-1 of the maps * factor * height. */
void aligned_bilinear_cpu(const void* x, ScalarKind kind, const EnlargeShape& shape, int64_t begin,
                          int64_t end, void* out);
/** Gradient by x, from that by the output: input rows begin..end-1 of the maps * height. */
void aligned_bilinear_backward_cpu(const void* grad, ScalarKind kind, const EnlargeShape& shape,
                                   int64_t begin, int64_t end, void* grad_x);

void aligned_bilinear_cuda(const void* x, ScalarKind kind, const EnlargeShape& shape, void* out,
                           void* stream);
void aligned_bilinear_backward_cuda(const void* grad, ScalarKind kind, const EnlargeShape& shape,
                                    void* grad_x, void* stream);

}  // namespace instseg::kernels
