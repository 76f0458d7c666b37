// SPDX-License-Identifier: Apache-2.0
#include "kernels/dice_loss.h"
#include "kernels/launch.cuh"

namespace instseg::kernels {
namespace {

constexpr unsigned kMaxGrid = 65535;  // of blocks along y

template <bool logits>
__device__ __forceinline__ float probability(float x) {
  return logits ? 1.0f / (1.0f + expf(-x)) : x;
}

__device__ __forceinline__ const uint8_t* mask_of(const DiceInput& input, int64_t map) {
  return input.masks + (input.index ? input.index[map] : map) * input.pixels;
}

// A block per map; threads add in double and in a fixed order.
template <bool logits, class T>
__global__ void sum_maps(const T* values, DiceInput input, float* sums) {
  __shared__ double overlaps[kThreads], totals[kThreads];
  const int64_t map = blockIdx.x;
  const T* source = values + map * input.pixels;
  const uint8_t* mask = mask_of(input, map);
  double overlap = 0, total = 0;
  for (int64_t i = threadIdx.x; i < input.pixels; i += kThreads) {
    const float p = probability<logits>(to_float(source[i])), g = static_cast<float>(mask[i]);
    overlap += p * g;
    total += p * p + g;
  }
  overlaps[threadIdx.x] = overlap;
  totals[threadIdx.x] = total;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      overlaps[threadIdx.x] += overlaps[threadIdx.x + half];
      totals[threadIdx.x] += totals[threadIdx.x + half];
    }
  }
  if (threadIdx.x == 0) {
    sums[2 * map] = static_cast<float>(overlaps[0]);
    sums[2 * map + 1] = static_cast<float>(totals[0]);
  }
}

template <bool logits, class T>
__global__ void write_slopes(const T* values, DiceInput input, const float* slopes, T* grad) {
  const int64_t pixel = thread_index();
  if (pixel >= input.pixels) return;
  for (int64_t map = blockIdx.y; map < input.maps; map += gridDim.y) {
    const float p = probability<logits>(to_float(values[map * input.pixels + pixel]));
    const float g = static_cast<float>(mask_of(input, map)[pixel]);
    const float by_p = slopes[2 * map] * p + slopes[2 * map + 1] * g;
    store(grad + map * input.pixels + pixel, logits ? by_p * (p * (1.0f - p)) : by_p);
  }
}

}  // namespace

void dice_sums_cuda(const DiceInput& input, float* sums, void* stream) {
  if (input.maps == 0) return;
  with_device_scalar(input.kind, [&]<class T>(T) {
    const T* values = static_cast<const T*>(input.values);
    const auto grid = static_cast<unsigned>(input.maps);
    if (input.logits) {
      sum_maps<true><<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(values, input, sums);
    } else {
      sum_maps<false><<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(values, input, sums);
    }
  });
  check_launch("dice_loss");
}

void dice_backward_cuda(const DiceInput& input, const float* slopes, void* grad, void* stream) {
  if (input.maps == 0 || input.pixels == 0) return;
  with_device_scalar(input.kind, [&]<class T>(T) {
    const T* values = static_cast<const T*>(input.values);
    T* out = static_cast<T*>(grad);
    const auto rows = static_cast<unsigned>(input.maps < kMaxGrid ? input.maps : kMaxGrid);
    const dim3 grid(blocks_for(input.pixels), rows);
    if (input.logits) {
      write_slopes<true>
          <<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(values, input, slopes, out);
    } else {
      write_slopes<false>
          <<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(values, input, slopes, out);
    }
  });
  check_launch("dice_loss");
}

}  // namespace instseg::kernels
