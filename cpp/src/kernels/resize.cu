// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include "instseg/error.h"
#include "kernels/resize.h"

namespace instseg::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kHalf = 1 << 21;

void check_launch(const char* name) {
  const cudaError_t error = cudaGetLastError();
  check<Error>(error == cudaSuccess, "[", name, "] CUDA launch failed: ", cudaGetErrorString(error));
}

// Launches `kernel` with one thread per element; nothing to do for empty outputs.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(int64_t, Parameters...), int64_t size, void* stream,
            Arguments... arguments) {
  if (size == 0) return;
  const auto blocks = static_cast<unsigned>((size + kThreads - 1) / kThreads);
  kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(size, arguments...);
  check_launch(name);
}

__device__ int64_t element() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

__global__ void filter_columns(int64_t size, const uint8_t* in, ResizeShape shape, int64_t taps,
                               const int32_t* start, const int32_t* weights, uint8_t* out) {
  const int64_t i = element();
  if (i >= size) return;
  const int64_t c = i % shape.channels, x = i / shape.channels % shape.out_width;
  const int64_t y = i / (shape.channels * shape.out_width);
  const uint8_t* pixel = in + (y * shape.in_width + start[x]) * shape.channels + c;
  int32_t sum = kHalf;
  for (int64_t t = 0; t < taps; ++t) sum += weights[x * taps + t] * pixel[t * shape.channels];
  out[i] = static_cast<uint8_t>(sum >> 22);
}

__global__ void filter_rows(int64_t size, const uint8_t* in, ResizeShape shape, int64_t taps,
                            const int32_t* start, const int32_t* weights, uint8_t* out) {
  const int64_t i = element();
  if (i >= size) return;
  const int64_t row_size = shape.channels * shape.out_width;
  const int64_t y = i / row_size;
  const uint8_t* pixel = in + start[y] * row_size + i % row_size;
  int32_t sum = kHalf;
  for (int64_t t = 0; t < taps; ++t) sum += weights[y * taps + t] * pixel[t * row_size];
  out[i] = static_cast<uint8_t>(sum >> 22);
}

// The four source pixels of an output element.
struct Corners {
  int value00, value01, value10, value11;
};

template <class Weight>
__device__ Corners corners(const uint8_t* in, const ResizeShape& shape, const LinearTap<Weight>& row,
                           const LinearTap<Weight>& column, int64_t c) {
  const int64_t width = shape.in_width, channels = shape.channels;
  return {in[(row.index0 * width + column.index0) * channels + c],
          in[(row.index0 * width + column.index1) * channels + c],
          in[(row.index1 * width + column.index0) * channels + c],
          in[(row.index1 * width + column.index1) * channels + c]};
}

__global__ void linear_opencv(int64_t size, const uint8_t* in, ResizeShape shape,
                              const LinearTap<int32_t>* rows, const LinearTap<int32_t>* columns,
                              uint8_t* out) {
  const int64_t i = element();
  if (i >= size) return;
  const LinearTap<int32_t> column = columns[i / shape.channels % shape.out_width];
  const LinearTap<int32_t> row = rows[i / (shape.channels * shape.out_width)];
  const Corners p = corners(in, shape, row, column, i % shape.channels);
  const int sum0 = column.weight0 * p.value00 + column.weight1 * p.value01;
  const int sum1 = column.weight0 * p.value10 + column.weight1 * p.value11;
  out[i] = static_cast<uint8_t>(
      (((row.weight0 * (sum0 >> 4)) >> 16) + ((row.weight1 * (sum1 >> 4)) >> 16) + 2) >> 2);
}

// The _rn intrinsics are never contracted to fused multiply-add, so that the result equals the CPU's.
__device__ float mix(float weight0, float value0, float weight1, float value1) {
  return __fadd_rn(__fmul_rn(weight0, value0), __fmul_rn(weight1, value1));
}

__global__ void linear_float(int64_t size, const uint8_t* in, ResizeShape shape, const LinearTap<float>* rows,
                             const LinearTap<float>* columns, float* out) {
  const int64_t i = element();
  if (i >= size) return;
  const LinearTap<float> column = columns[i / shape.channels % shape.out_width];
  const LinearTap<float> row = rows[i / (shape.channels * shape.out_width)];
  const Corners p = corners(in, shape, row, column, i % shape.channels);
  const float top = mix(column.weight0, p.value00, column.weight1, p.value01);
  const float bottom = mix(column.weight0, p.value10, column.weight1, p.value11);
  out[i] = mix(row.weight0, top, row.weight1, bottom);
}

__global__ void nearest(int64_t size, const uint8_t* in, ResizeShape shape, const int32_t* rows,
                        const int32_t* columns, uint8_t* out) {
  const int64_t i = element();
  if (i >= size) return;
  const int64_t c = i % shape.channels, x = i / shape.channels % shape.out_width;
  const int64_t y = i / (shape.channels * shape.out_width);
  out[i] = in[(rows[y] * shape.in_width + columns[x]) * shape.channels + c];
}

int64_t out_size(const ResizeShape& shape) { return shape.out_height * shape.out_width * shape.channels; }

}  // namespace

void filter_columns_cuda(const uint8_t* in, const ResizeShape& shape, int64_t taps, const int32_t* start,
                         const int32_t* weights, uint8_t* out, void* stream) {
  launch("resize_image", filter_columns, shape.in_height * shape.out_width * shape.channels, stream, in,
         shape, taps, start, weights, out);
}

void filter_rows_cuda(const uint8_t* in, const ResizeShape& shape, int64_t taps, const int32_t* start,
                      const int32_t* weights, uint8_t* out, void* stream) {
  launch("resize_image", filter_rows, out_size(shape), stream, in, shape, taps, start, weights, out);
}

void resize_opencv_cuda(const uint8_t* in, const ResizeShape& shape, const LinearTap<int32_t>* rows,
                        const LinearTap<int32_t>* columns, uint8_t* out, void* stream) {
  launch("resize_image", linear_opencv, out_size(shape), stream, in, shape, rows, columns, out);
}

void resize_float_cuda(const uint8_t* in, const ResizeShape& shape, const LinearTap<float>* rows,
                       const LinearTap<float>* columns, float* out, void* stream) {
  launch("resize_image", linear_float, out_size(shape), stream, in, shape, rows, columns, out);
}

void resize_nearest_cuda(const uint8_t* in, const ResizeShape& shape, const int32_t* rows,
                         const int32_t* columns, uint8_t* out, void* stream) {
  launch("resize_mask", nearest, out_size(shape), stream, in, shape, rows, columns, out);
}

}  // namespace instseg::kernels
