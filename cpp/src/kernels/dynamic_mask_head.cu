// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/dynamic_mask_head.h"
#include "kernels/launch.cuh"

namespace instseg::kernels {
namespace {

constexpr int kHeadThreads = 128;
constexpr int64_t kPixelsPerThread = 4;
constexpr int64_t kMaxRows = 65535;  // of a grid's y axis; kernels loop over what is beyond
constexpr size_t kSharedLimit = 48 * 1024;

__device__ bool has_image(const HeadView& view, int64_t n) {
  return view.images[n] >= 0 && view.images[n] < view.batch;
}

/** Input `i` of instance n's first layer at a cell. */
__device__ float input_at(const HeadView& view, int64_t n, int64_t cell, int64_t i) {
  const int64_t coordinates = coordinate_inputs(view), cells = view.height * view.width;
  if (i >= coordinates) {
    return view.features[(view.images[n] * view.channels + i - coordinates) * cells + cell];
  }
  const float position = i == 0 ? cell_position(view, cell % view.width, view.width)
                                : cell_position(view, cell / view.width, view.height);
  if (view.coordinates == HeadCoordinates::absolute) return position;
  return (view.locations[2 * n + i] - position) * (1.0f / view.scales[n]);
}

// ---- Heads in registers: the width is padded with zeros to kWidth, a multiple of 4 ----

template <int kWidth>
__host__ __device__ HeadLayout padded(const HeadLayout& head) {
  return {head.inputs, head.depth, kWidth};
}

/** Instance n's parameters as those of the padded head, weights as [in][out]; ends the use of the former. */
template <int kWidth>
__device__ void load_parameters(const HeadView& view, int64_t n, float* shared) {
  const HeadLayout head = view.head, wide = padded<kWidth>(head);
  const float* from = view.parameters + n * parameter_count(head);
  __syncthreads();
  for (int64_t layer = 0; layer < head.depth; ++layer) {
    const int64_t inputs = layer_inputs(head, layer), outputs = layer_outputs(head, layer);
    const int64_t rows = layer_inputs(wide, layer), columns = layer_outputs(wide, layer);
    const float *weights = from + weight_start(head, layer), *biases = from + bias_start(head, layer);
    for (int64_t k = threadIdx.x; k < rows * columns; k += blockDim.x) {
      const int64_t i = k / columns, o = k % columns;
      shared[weight_start(wide, layer) + k] = i < inputs && o < outputs ? weights[o * inputs + i] : 0.0f;
    }
    for (int64_t o = threadIdx.x; o < columns; o += blockDim.x) {
      shared[bias_start(wide, layer) + o] = o < outputs ? biases[o] : 0.0f;
    }
  }
  __syncthreads();
}

/** sums += x * weights [kWidth]. */
template <int kWidth>
__device__ __forceinline__ void accumulate(const float* weights, float x, float (&sums)[kWidth]) {
#pragma unroll
  for (int o = 0; o < kWidth; o += 4) {
    const float4 w = *reinterpret_cast<const float4*>(weights + o);
    sums[o] += w.x * x;
    sums[o + 1] += w.y * x;
    sums[o + 2] += w.z * x;
    sums[o + 3] += w.w * x;
  }
}

/** Sum of weights [kWidth] times values. */
template <int kWidth>
__device__ __forceinline__ float dot(const float* weights, const float (&values)[kWidth]) {
  float sum = 0;
#pragma unroll
  for (int o = 0; o < kWidth; o += 4) {
    const float4 w = *reinterpret_cast<const float4*>(weights + o);
    sum += w.x * values[o] + w.y * values[o + 1] + w.z * values[o + 2] + w.w * values[o + 3];
  }
  return sum;
}

/** ReLU, and zero in the padding; bit o of the result: whether value o is positive. */
template <int kWidth>
__device__ __forceinline__ uint32_t rectify(int64_t width, float (&values)[kWidth]) {
  uint32_t positive = 0;
#pragma unroll
  for (int o = 0; o < kWidth; ++o) {
    if (o >= width || values[o] < 0) values[o] = 0;  // NaN stays NaN
    if (values[o] > 0) positive |= 1u << o;
  }
  return positive;
}

/** values = the last hidden activations; positive [depth - 1] bits as of rectify. Needs depth >= 2. */
template <int kWidth>
__device__ void run_hidden(const HeadView& view, const float* shared, int64_t n, int64_t cell,
                           float (&values)[kWidth], uint32_t* positive) {
  const HeadLayout wide = padded<kWidth>(view.head);
#pragma unroll
  for (int o = 0; o < kWidth; ++o) values[o] = shared[bias_start(wide, 0) + o];
  for (int64_t i = 0; i < wide.inputs; ++i) {
    accumulate(shared + i * kWidth, input_at(view, n, cell, i), values);
  }
  positive[0] = rectify(view.head.width, values);
  for (int64_t layer = 1; layer < wide.depth - 1; ++layer) {
    const float *weights = shared + weight_start(wide, layer), *biases = shared + bias_start(wide, layer);
    float next[kWidth];
#pragma unroll
    for (int o = 0; o < kWidth; ++o) next[o] = biases[o];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) accumulate(weights + i * kWidth, values[i], next);
    positive[layer] = rectify(view.head.width, next);
#pragma unroll
    for (int o = 0; o < kWidth; ++o) values[o] = next[o];
  }
}

template <int kWidth>
__device__ float logit_at(const HeadView& view, const float* shared, int64_t n, int64_t cell) {
  const HeadLayout wide = padded<kWidth>(view.head);
  const int64_t last = wide.depth - 1;
  const float* weights = shared + weight_start(wide, last);
  const float bias = shared[bias_start(wide, last)];
  if (last == 0) {
    float logit = bias;
    for (int64_t i = 0; i < wide.inputs; ++i) logit += weights[i] * input_at(view, n, cell, i);
    return logit;
  }
  float values[kWidth];
  uint32_t positive[kMaxHeadDepth];
  run_hidden(view, shared, n, cell, values, positive);
  return bias + dot(weights, values);
}

// x: pixels, y: instances.
template <int kWidth>
__global__ void write_logits(HeadView view, float* logits) {
  extern __shared__ __align__(16) float shared[];
  const int64_t cells = view.height * view.width;
  for (int64_t n = blockIdx.y; n < view.instances; n += gridDim.y) {
    load_parameters<kWidth>(view, n, shared);
    const bool known = has_image(view, n);
    for (int64_t k = 0; k < kPixelsPerThread; ++k) {
      const int64_t cell = (blockIdx.x * kPixelsPerThread + k) * blockDim.x + threadIdx.x;
      if (cell >= cells) break;
      logits[n * cells + cell] = known ? logit_at<kWidth>(view, shared, n, cell) : NAN;
    }
  }
}

/** slopes [channels], a stride of blockDim.x apart, += gradient of instance n's logit times `grad`. */
template <int kWidth>
__device__ void add_feature_slopes(const HeadView& view, const float* shared, int64_t n, int64_t cell,
                                   float grad, float* slopes) {
  const HeadLayout wide = padded<kWidth>(view.head);
  const int64_t last = wide.depth - 1, coordinates = coordinate_inputs(view);
  const float* weights = shared + weight_start(wide, last);
  if (last == 0) {
    for (int64_t c = 0; c < view.channels; ++c) slopes[c * blockDim.x] += grad * weights[coordinates + c];
    return;
  }
  float delta[kWidth];
  uint32_t positive[kMaxHeadDepth];
  run_hidden(view, shared, n, cell, delta, positive);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) delta[i] = positive[last - 1] >> i & 1 ? grad * weights[i] : 0.0f;
  for (int64_t layer = last - 1; layer > 0; --layer) {
    const float* rows = shared + weight_start(wide, layer);
    float next[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      next[i] = positive[layer - 1] >> i & 1 ? dot(rows + i * kWidth, delta) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) delta[i] = next[i];
  }
  for (int64_t c = 0; c < view.channels; ++c) {
    slopes[c * blockDim.x] += dot(shared + (coordinates + c) * kWidth, delta);
  }
}

// x: pixels, y: images. A thread owns a pixel and visits the instances of its image in their order.
template <int kWidth>
__global__ void write_feature_slopes(HeadView view, const int64_t* order, const int64_t* starts,
                                     const float* grad_logits, float* grad_features) {
  extern __shared__ __align__(16) float shared[];
  const int64_t cells = view.height * view.width;
  const int64_t cell = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  float* slopes = shared + parameter_count(padded<kWidth>(view.head)) + threadIdx.x;
  for (int64_t image = blockIdx.y; image < view.batch; image += gridDim.y) {
    for (int64_t c = 0; c < view.channels; ++c) slopes[c * blockDim.x] = 0;
    for (int64_t k = starts[image]; k < starts[image + 1]; ++k) {
      const int64_t n = order[k];
      load_parameters<kWidth>(view, n, shared);
      if (cell < cells) {
        add_feature_slopes<kWidth>(view, shared, n, cell, grad_logits[n * cells + cell], slopes);
      }
    }
    if (cell >= cells) continue;
    for (int64_t c = 0; c < view.channels; ++c) {
      grad_features[(image * view.channels + c) * cells + cell] = slopes[c * blockDim.x];
    }
  }
}

// ---- Gradient by the parameters: activations of a tile of pixels in shared memory, one row per channel ----

struct TileRows {
  int64_t tile, stride;  // pixels; floats between rows, one more so that rows start in different banks
  int64_t hidden;        // first row of layer 0's activations; the inputs are rows 0..
  int64_t delta;         // first of two sets of `width` rows
};

__host__ __device__ TileRows tile_rows(const HeadLayout& head, int64_t tile) {
  return {tile, tile + 1, head.inputs, head.inputs + (head.depth - 1) * head.width};
}

size_t tile_bytes(const HeadLayout& head, int64_t tile) {
  const TileRows rows = tile_rows(head, tile);
  return (rows.delta + 2 * head.width) * rows.stride * sizeof(float);
}

/** The inputs and hidden activations of one pixel, in its column of the tile. */
__device__ void fill_column(const HeadView& view, const TileRows& rows, int64_t n, int64_t cell, bool exists,
                            float* column) {
  const HeadLayout& head = view.head;
  const float* parameters = view.parameters + n * parameter_count(head);
  for (int64_t i = 0; i < head.inputs; ++i) {
    column[i * rows.stride] = exists ? input_at(view, n, cell, i) : 0.0f;
  }
  const float* in = column;
  for (int64_t layer = 0; layer < head.depth - 1; ++layer) {
    const int64_t inputs = layer_inputs(head, layer);
    const float* weights = parameters + weight_start(head, layer);
    float* out = column + (rows.hidden + layer * head.width) * rows.stride;
    for (int64_t o = 0; o < head.width; ++o) {
      float sum = parameters[bias_start(head, layer) + o];
      for (int64_t i = 0; i < inputs; ++i) sum += weights[o * inputs + i] * in[i * rows.stride];
      out[o * rows.stride] = sum < 0 ? 0 : sum;
    }
    in = out;
  }
}

/** Adds the tile's gradient by one layer's weights and biases; a thread owns every blockDim.x-th of them. */
__device__ void add_layer_slopes(const HeadLayout& head, const TileRows& rows, int64_t layer, const float* in,
                                 const float* delta, bool first, float* partial) {
  const int64_t inputs = layer_inputs(head, layer), outputs = layer_outputs(head, layer);
  for (int64_t k = threadIdx.x; k < outputs * (inputs + 1); k += blockDim.x) {
    const bool bias = k >= outputs * inputs;
    const int64_t o = bias ? k - outputs * inputs : k / inputs;
    const float *d = delta + o * rows.stride, *x = in + (k % inputs) * rows.stride;
    float sum = 0;
    for (int64_t p = 0; p < rows.tile; ++p) sum += bias ? d[p] : d[p] * x[p];
    float* place = partial + (bias ? bias_start(head, layer) + o : weight_start(head, layer) + k);
    *place = first ? sum : *place + sum;
  }
}

/** One pixel's gradient by the activations before `layer` (at `in`), from that behind it. */
__device__ void step_back(const HeadLayout& head, const TileRows& rows, int64_t layer, const float* weights,
                          const float* in, const float* delta, float* next) {
  const int64_t outputs = layer_outputs(head, layer);
  for (int64_t i = 0; i < head.width; ++i) {
    float sum = 0;
    for (int64_t o = 0; o < outputs; ++o) sum += weights[o * head.width + i] * delta[o * rows.stride];
    next[i * rows.stride] = in[i * rows.stride] > 0 ? sum : 0;
  }
}

// x: spans of pixels, y: instances.
__global__ void write_parameter_slopes(HeadView view, int64_t tile, const float* grad_logits,
                                       float* partials) {
  extern __shared__ __align__(16) float shared[];
  const HeadLayout& head = view.head;
  const TileRows rows = tile_rows(head, tile);
  const int64_t cells = view.height * view.width, count = parameter_count(head);
  const int64_t start = blockIdx.x * kHeadCudaSpan, left = cells - start;
  const int64_t end = start + (left < kHeadCudaSpan ? left : kHeadCudaSpan);
  const bool owns_column = threadIdx.x < tile;
  for (int64_t n = blockIdx.y; n < view.instances; n += gridDim.y) {
    float* partial = partials + (blockIdx.x * view.instances + n) * count;
    if (!has_image(view, n)) {
      for (int64_t k = threadIdx.x; k < count; k += blockDim.x) partial[k] = 0;
      continue;
    }
    for (int64_t first = start; first < end; first += tile) {
      const int64_t cell = first + threadIdx.x;
      float *delta = shared + rows.delta * rows.stride, *next = delta + head.width * rows.stride;
      __syncthreads();  // the last tile has been summed
      if (owns_column) {
        fill_column(view, rows, n, cell, cell < end, shared + threadIdx.x);
        delta[threadIdx.x] = cell < end ? grad_logits[n * cells + cell] : 0.0f;
      }
      for (int64_t layer = head.depth - 1; layer >= 0; --layer) {
        const float* in =
            layer == 0 ? shared : shared + (rows.hidden + (layer - 1) * head.width) * rows.stride;
        __syncthreads();
        add_layer_slopes(head, rows, layer, in, delta, first == start, partial);
        if (layer > 0 && owns_column) {
          const float* weights = view.parameters + n * count + weight_start(head, layer);
          step_back(head, rows, layer, weights, in + threadIdx.x, delta + threadIdx.x, next + threadIdx.x);
        }
        float* used = delta;
        delta = next;
        next = used;
      }
    }
  }
}

dim3 grid(int64_t columns, int64_t rows) {
  return {static_cast<unsigned>(columns), static_cast<unsigned>(std::min(rows, kMaxRows))};
}

int64_t blocks_of(int64_t size, int64_t block) { return (size + block - 1) / block; }

/** Calls function(integral constant) with the padded width. */
template <class Function>
void with_width(int64_t width, const Function& function) {
  if (width <= 4) return function.template operator()<4>();
  if (width <= 8) return function.template operator()<8>();
  if (width <= 16) return function.template operator()<16>();
  function.template operator()<kMaxHeadWidth>();
}

}  // namespace

void dynamic_mask_head_cuda(const HeadView& view, float* logits, void* stream) {
  if (view.instances == 0) return;
  const int64_t blocks = blocks_of(view.height * view.width, kHeadThreads * kPixelsPerThread);
  with_width(view.head.width, [&]<int kWidth>() {
    const size_t shared = parameter_count(padded<kWidth>(view.head)) * sizeof(float);
    write_logits<kWidth>
        <<<grid(blocks, view.instances), kHeadThreads, shared, static_cast<cudaStream_t>(stream)>>>(view,
                                                                                                    logits);
  });
  check_launch("dynamic_mask_head");
}

void dynamic_mask_head_features_cuda(const HeadView& view, const int64_t* order, const int64_t* starts,
                                     const float* grad_logits, float* grad_features, void* stream) {
  if (view.batch * view.channels == 0) return;
  const int64_t blocks = blocks_of(view.height * view.width, kHeadThreads);
  with_width(view.head.width, [&]<int kWidth>() {
    const int64_t floats = parameter_count(padded<kWidth>(view.head)) + view.channels * kHeadThreads;
    write_feature_slopes<kWidth>
        <<<grid(blocks, view.batch), kHeadThreads, floats * sizeof(float),
           static_cast<cudaStream_t>(stream)>>>(view, order, starts, grad_logits, grad_features);
  });
  check_launch("dynamic_mask_head");
}

void dynamic_mask_head_parameters_cuda(const HeadView& view, const float* grad_logits, float* partial,
                                       void* stream) {
  if (view.instances == 0) return;
  int64_t tile = kHeadThreads;
  while (tile > 32 && tile_bytes(view.head, tile) > kSharedLimit) tile /= 2;
  write_parameter_slopes<<<grid(blocks_of(view.height * view.width, kHeadCudaSpan), view.instances),
                           kHeadThreads, tile_bytes(view.head, tile), static_cast<cudaStream_t>(stream)>>>(
      view, tile, grad_logits, partial);
  check_launch("dynamic_mask_head");
}

}  // namespace instseg::kernels
