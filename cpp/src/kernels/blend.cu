// SPDX-License-Identifier: Apache-2.0
#include "kernels/blend.h"
#include "kernels/launch.cuh"

// The formulas are those of blend_forward.cpp and blend_backward.cpp.
namespace instseg::kernels {
namespace {

constexpr int kColumns = 64;  // threads that share a row of pixels

// Where one pixel of one instance reads.
struct Pixel {
  const float* map;            // bases of the image
  const float* attention;      // [channels, cells, cells] of the instance
  LinearTap<float> x, y;       // bases
  LinearTap<float> right, up;  // attention along columns and rows
  bool inside;                 // on the map; nothing else is set otherwise
};

__device__ Pixel locate(const BlendInput& in, int64_t n, int64_t row, int64_t column) {
  Pixel p{};
  const int64_t image = in.image[n];
  if (image < 0 || image >= in.images) return p;
  const float* box = in.boxes + 4 * n;
  p.x = roi_tap(box[0], box[2], in.scale, column, in.size, in.width);
  p.y = roi_tap(box[1], box[3], in.scale, row, in.size, in.height);
  if (p.x.index0 < 0 || p.y.index0 < 0) return p;
  p.map = in.bases + image * in.height * in.width * in.channels;
  p.attention = in.attention + n * in.channels * in.cells * in.cells;
  p.right = attention_tap(column, in.size, in.cells);
  p.up = attention_tap(row, in.size, in.cells);
  p.inside = true;
  return p;
}

__device__ float attention_at(const BlendInput& in, const Pixel& p, int64_t k) {
  const float* low = p.attention + (k * in.cells + p.up.index0) * in.cells;
  const float* high = p.attention + (k * in.cells + p.up.index1) * in.cells;
  return p.up.weight0 * (p.right.weight0 * low[p.right.index0] + p.right.weight1 * low[p.right.index1]) +
         p.up.weight1 * (p.right.weight0 * high[p.right.index0] + p.right.weight1 * high[p.right.index1]);
}

__device__ float sample_at(const BlendInput& in, const Pixel& p, int64_t k) {
  const float* top = p.map + p.y.index0 * in.width * in.channels + k;
  const float* bottom = p.map + p.y.index1 * in.width * in.channels + k;
  const int64_t left = p.x.index0 * in.channels, right = p.x.index1 * in.channels;
  return p.x.weight0 * (p.y.weight0 * top[left] + p.y.weight1 * bottom[left]) +
         p.x.weight1 * (p.y.weight0 * top[right] + p.y.weight1 * bottom[right]);
}

// The softmax over the channels: weight k is exp(attention_k - peak) * share.
struct Softmax {
  float peak, share;
};

__device__ Softmax softmax_at(const BlendInput& in, const Pixel& p) {
  Softmax softmax{attention_at(in, p, 0), 0.0f};
  for (int64_t k = 1; k < in.channels; ++k) {
    const float a = attention_at(in, p, k);
    softmax.peak = a > softmax.peak ? a : softmax.peak;
  }
  float sum = 0;
  for (int64_t k = 0; k < in.channels; ++k) sum += expf(attention_at(in, p, k) - softmax.peak);
  softmax.share = 1.0f / sum;
  return softmax;
}

__device__ float weight_at(const BlendInput& in, const Pixel& p, Softmax softmax, int64_t k) {
  return expf(attention_at(in, p, k) - softmax.peak) * softmax.share;
}

__device__ float logit_at(const BlendInput& in, const Pixel& p, Softmax softmax) {
  float logit = 0;
  for (int64_t k = 0; k < in.channels; ++k) logit += weight_at(in, p, softmax, k) * sample_at(in, p, k);
  return logit;
}

// One thread per pixel.
__global__ void blend(BlendInput in, float* logits) {
  const int64_t i = thread_index(), plane = in.size * in.size;
  if (i >= in.instances * plane) return;
  const Pixel p = locate(in, i / plane, i % plane / in.size, i % in.size);
  logits[i] = p.inside ? logit_at(in, p, softmax_at(in, p)) : 0.0f;
}

__global__ void spread_to_bases(BlendInput in, const float* grad, float* grad_bases) {
  const int64_t i = thread_index(), plane = in.size * in.size;
  if (i >= in.instances * plane) return;
  const int64_t n = i / plane;
  const Pixel p = locate(in, n, i % plane / in.size, i % in.size);
  if (!p.inside) return;
  const Softmax softmax = softmax_at(in, p);
  float* map = grad_bases + in.image[n] * in.height * in.width * in.channels;
  for (int64_t k = 0; k < in.channels; ++k) {
    const float slope = grad[i] * weight_at(in, p, softmax, k);
    const auto add = [&](int64_t row, int64_t column, float weight) {
      if (weight != 0.0f) atomicAdd(map + (row * in.width + column) * in.channels + k, slope * weight);
    };
    add(p.y.index0, p.x.index0, p.y.weight0 * p.x.weight0);
    add(p.y.index0, p.x.index1, p.y.weight0 * p.x.weight1);
    add(p.y.index1, p.x.index0, p.y.weight1 * p.x.weight0);
    add(p.y.index1, p.x.index1, p.y.weight1 * p.x.weight1);
  }
}

// First and one past the last of `size` output indices that may read cell `cell`; a few more do no harm.
__device__ int64_t first_reader(int64_t cell, int64_t size, int64_t cells) {
  const int64_t first = (2 * cell - 1) * size / (2 * cells) - 2;
  return first > 0 ? first : 0;
}
__device__ int64_t end_of_readers(int64_t cell, int64_t size, int64_t cells) {
  const int64_t end = (2 * cell + 3) * size / (2 * cells) + 2;
  return end < size ? end : size;
}

__device__ float weight_of(const LinearTap<float>& tap, int64_t cell) {
  return (tap.index0 == cell ? tap.weight0 : 0.0f) + (tap.index1 == cell ? tap.weight1 : 0.0f);
}

// One block per row of the attention of one channel: gathers, so the order of the sums is fixed.
__global__ void gather_to_attention(BlendInput in, const float* grad, float* grad_attention) {
  extern __shared__ float line[];  // [size] gradient of the row enlarged along x
  const int64_t cell_row = blockIdx.x % in.cells, k = blockIdx.x / in.cells % in.channels;
  const int64_t n = blockIdx.x / in.cells / in.channels;
  const int64_t first = first_reader(cell_row, in.size, in.cells);
  const int64_t end = end_of_readers(cell_row, in.size, in.cells);
  for (int64_t column = threadIdx.x; column < in.size; column += kColumns) {
    float sum = 0;
    for (int64_t row = first; row < end; ++row) {
      const float weight = weight_of(attention_tap(row, in.size, in.cells), cell_row);
      if (weight == 0.0f) continue;
      const Pixel p = locate(in, n, row, column);
      if (!p.inside) continue;
      const Softmax softmax = softmax_at(in, p);
      const float slope = weight_at(in, p, softmax, k) * (sample_at(in, p, k) - logit_at(in, p, softmax));
      sum += weight * grad[(n * in.size + row) * in.size + column] * slope;
    }
    line[column] = sum;
  }
  __syncthreads();
  for (int64_t cell = threadIdx.x; cell < in.cells; cell += kColumns) {
    const int64_t last = end_of_readers(cell, in.size, in.cells);
    float sum = 0;
    for (int64_t column = first_reader(cell, in.size, in.cells); column < last; ++column) {
      sum += weight_of(attention_tap(column, in.size, in.cells), cell) * line[column];
    }
    grad_attention[((n * in.channels + k) * in.cells + cell_row) * in.cells + cell] = sum;
  }
}

}  // namespace

void blend_cuda(const BlendInput& in, float* logits, void* stream) {
  if (in.instances == 0) return;
  blend<<<blocks_for(in.instances * in.size * in.size), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      in, logits);
  check_launch("blend");
}

void blend_attention_backward_cuda(const BlendInput& in, const float* grad, float* grad_attention,
                                   void* stream) {
  if (in.instances == 0) return;
  const auto blocks = static_cast<unsigned>(in.instances * in.channels * in.cells);
  gather_to_attention<<<blocks, kColumns, in.size * sizeof(float), static_cast<cudaStream_t>(stream)>>>(
      in, grad, grad_attention);
  check_launch("blend");
}

void blend_bases_backward_cuda(const BlendInput& in, const float* grad, float* grad_bases, void* stream) {
  if (in.instances == 0) return;
  spread_to_bases<<<blocks_for(in.instances * in.size * in.size), kThreads, 0,
                    static_cast<cudaStream_t>(stream)>>>(in, grad, grad_bases);
  check_launch("blend");
}

}  // namespace instseg::kernels
