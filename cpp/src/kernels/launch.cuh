// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "instseg/error.h"
#include "kernels/scalar_kind.h"

namespace instseg::kernels {

constexpr int kThreads = 256;

/** Throws when the launch just made was refused. */
inline void check_launch(const char* name) {
  const cudaError_t error = cudaGetLastError();
  check<Error>(error == cudaSuccess, "[", name, "] CUDA launch failed: ", cudaGetErrorString(error));
}

/** Blocks of kThreads that cover `size` > 0 elements. */
inline unsigned blocks_for(int64_t size) { return static_cast<unsigned>((size + kThreads - 1) / kThreads); }

/** Index of this thread in a one-dimensional launch. */
__device__ __forceinline__ int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }

__device__ __forceinline__ void store(float* place, float value) { *place = value; }
__device__ __forceinline__ void store(__nv_bfloat16* place, float value) { *place = __float2bfloat16(value); }
__device__ __forceinline__ void store(__half* place, float value) { *place = __float2half(value); }

/** Calls function(T{}) with the device type behind `kind`. */
template <class Function>
void with_device_scalar(ScalarKind kind, const Function& function) {
  if (kind == ScalarKind::bfloat16) return function(__nv_bfloat16{});
  if (kind == ScalarKind::float16) return function(__half{});
  function(float{});
}

}  // namespace instseg::kernels
