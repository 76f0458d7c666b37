// SPDX-License-Identifier: Apache-2.0
#include "kernels/aligned_bilinear.h"
#include "kernels/launch.cuh"

namespace instseg::kernels {
namespace {

/** Position of element `i` of [maps, height, width, inner]. */
struct Place {
  int64_t map, y, x, inner;
};

__device__ Place place_of(int64_t i, int64_t height, int64_t width, int64_t inner) {
  const int64_t column = i / inner, row = column / width;
  return {row / height, row % height, column % width, i % inner};
}

template <class T>
__global__ void enlarge(const T* x, EnlargeShape shape, int64_t size, T* out) {
  const int64_t i = thread_index();
  if (i >= size) return;
  const Place at = place_of(i, shape.factor * shape.height, shape.factor * shape.width, shape.inner);
  const EnlargeTap rows = enlarge_tap(at.y, shape.height, shape.factor);
  const EnlargeTap columns = enlarge_tap(at.x, shape.width, shape.factor);
  const auto value = [&](int64_t row, int64_t column) {
    return to_float(x[((at.map * shape.height + row) * shape.width + column) * shape.inner + at.inner]);
  };
  const float left =
      (1 - rows.weight) * value(rows.low, columns.low) + rows.weight * value(rows.high, columns.low);
  const float right =
      (1 - rows.weight) * value(rows.low, columns.high) + rows.weight * value(rows.high, columns.high);
  store(out + i, (1 - columns.weight) * left + columns.weight * right);
}

template <class T>
__global__ void gather(const T* grad, EnlargeShape shape, int64_t size, T* grad_x) {
  const int64_t i = thread_index();
  if (i >= size) return;
  const Place at = place_of(i, shape.height, shape.width, shape.inner);
  const EnlargeReach rows = enlarge_reach(at.y, shape.height, shape.factor);
  const EnlargeReach columns = enlarge_reach(at.x, shape.width, shape.factor);
  float sum = 0;
  for (int64_t y = rows.first; y <= rows.last; ++y) {
    const T* line =
        grad + (at.map * shape.factor * shape.height + y) * shape.factor * shape.width * shape.inner;
    float across = 0;
    for (int64_t x = columns.first; x <= columns.last; ++x) {
      across +=
          enlarge_weight(at.x, x, shape.width, shape.factor) * to_float(line[x * shape.inner + at.inner]);
    }
    sum += enlarge_weight(at.y, y, shape.height, shape.factor) * across;
  }
  store(grad_x + i, sum);
}

int64_t size_of(const EnlargeShape& shape) { return shape.maps * shape.height * shape.width * shape.inner; }

}  // namespace

void aligned_bilinear_cuda(const void* x, ScalarKind kind, const EnlargeShape& shape, void* out,
                           void* stream) {
  const int64_t size = size_of(shape) * shape.factor * shape.factor;
  if (size == 0) return;
  with_device_scalar(kind, [&]<class T>(T) {
    enlarge<<<blocks_for(size), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(x), shape, size, static_cast<T*>(out));
  });
  check_launch("aligned_bilinear");
}

void aligned_bilinear_backward_cuda(const void* grad, ScalarKind kind, const EnlargeShape& shape,
                                    void* grad_x, void* stream) {
  const int64_t size = size_of(shape);
  if (size == 0) return;
  with_device_scalar(kind, [&]<class T>(T) {
    gather<<<blocks_for(size), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(grad), shape, size, static_cast<T*>(grad_x));
  });
  check_launch("aligned_bilinear");
}

}  // namespace instseg::kernels
