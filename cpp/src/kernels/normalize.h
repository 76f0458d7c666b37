// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace instseg::kernels {

/** What turns one interleaved RGB image into one padded, interleaved network input. */
struct Normalization {
  int64_t height, width;                // of the image
  int64_t padded_height, padded_width;  // of the output; the rest is zero
  float mean[3], std[3];                // in the order of the output channels
  int32_t source[3];                    // image channel of each output channel
};

/** out[y, x, c] = (in[y, x, source[c]] - mean[c]) / std[c] in float32; [height, width, 3] -> [padded, padded,
 * 3]. */
void normalize(const uint8_t* in, const Normalization& how, float* out);
void normalize(const float* in, const Normalization& how, float* out);

/** The same on the GPU; pointers are device memory, `stream` is a cudaStream_t. */
void normalize_cuda(const uint8_t* in, const Normalization& how, float* out, void* stream);
void normalize_cuda(const float* in, const Normalization& how, float* out, void* stream);

}  // namespace instseg::kernels
