// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include "instseg/error.h"
#include "kernels/normalize.h"

namespace instseg::kernels {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void normalize_pixels(int64_t size, const T* in, Normalization how, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const int64_t x = i % how.padded_width, y = i / how.padded_width;
  const bool inside = x < how.width && y < how.height;
  const T* pixel = in + 3 * (y * how.width + x);
  for (int c = 0; c < 3; ++c) {
    // _rn: no approximate division under fast-math flags, so that the result equals the CPU's.
    out[3 * i + c] =
        inside ? __fdiv_rn(__fsub_rn(static_cast<float>(pixel[how.source[c]]), how.mean[c]), how.std[c])
               : 0.f;
  }
}

template <class T>
void launch(const T* in, const Normalization& how, float* out, void* stream) {
  const int64_t size = how.padded_height * how.padded_width;
  if (size == 0) return;
  const auto blocks = static_cast<unsigned>((size + kThreads - 1) / kThreads);
  normalize_pixels<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(size, in, how, out);
  const cudaError_t error = cudaGetLastError();
  check<Error>(error == cudaSuccess, "[make_batch] CUDA launch failed: ", cudaGetErrorString(error));
}

}  // namespace

void normalize_cuda(const uint8_t* in, const Normalization& how, float* out, void* stream) {
  launch(in, how, out, stream);
}

void normalize_cuda(const float* in, const Normalization& how, float* out, void* stream) {
  launch(in, how, out, stream);
}

}  // namespace instseg::kernels
