// SPDX-License-Identifier: Apache-2.0
#include "kernels/fcos_decode.h"
#include "kernels/host_device.h"
#include "kernels/launch.cuh"

namespace instseg::kernels {
namespace {

__device__ float sigmoid(float x) { return div_rn(1.0f, 1.0f + expf(-x)); }

__device__ float score_of(const DecodeRule& rule, float product) {
  return rule.sqrt_score ? sqrtf(product) : product;
}

__device__ bool passes(const DecodeRule& rule, float p, float product) {
  if (rule.on == ThresholdOn::class_probability) return p > rule.threshold;
  if (rule.on == ThresholdOn::product) return product > rule.threshold;
  return score_of(rule, product) > rule.threshold;
}

// One thread per logit, in memory order. The counter is the only contended address, and few logits pass.
template <class T>
__global__ void find(DecodeView view, DecodeRule rule, const bool* allowed, int64_t size, float* products,
                     int64_t* keys, int32_t* count) {
  const int64_t i = thread_index();
  if (i >= size) return;
  const int64_t cells = view.height * view.width;
  const int64_t cell = view.channels_last ? i / view.classes : i % cells;
  if (allowed && !allowed[cell]) return;
  const float p = sigmoid(to_float(static_cast<const T*>(view.logits)[i]));
  // p*c <= p: most logits are settled without reading the centerness.
  if (!(p > 0) || !passes(rule, p, p)) return;
  const int64_t row = cell / view.width, column = cell % view.width;
  const int64_t place = row * view.centerness_row + column * view.centerness_column;
  const float product = mul_rn(p, sigmoid(to_float(static_cast<const T*>(view.centerness)[place])));
  if (!(product >= 0) || !passes(rule, p, product)) return;
  const int32_t slot = atomicAdd(count, 1);
  products[slot] = product;
  keys[slot] = cell * view.classes + (view.channels_last ? i % view.classes : i / cells);
}

template <class T>
__global__ void decode(DecodeView view, DecodeRule rule, const float* products, const int64_t* keys,
                       int64_t n, float* boxes, float* scores, int64_t* labels, int64_t* positions) {
  const int64_t i = thread_index();
  if (i >= n) return;
  const int64_t cell = keys[i] / view.classes, row = cell / view.width, column = cell % view.width;
  const T* reg = static_cast<const T*>(view.reg) + row * view.reg_row + column * view.reg_column;
  float distance[4];
  for (int side = 0; side < 4; ++side) {
    distance[side] = mul_rn(to_float(reg[side * view.reg_channel]), view.unit);
  }
  const float x = static_cast<float>(column * view.step_x + view.offset);
  const float y = static_cast<float>(row * view.step_y + view.offset);
  float box[4] = {sub_rn(x, distance[0]), sub_rn(y, distance[1]), add_rn(x, distance[2]),
                  add_rn(y, distance[3])};
  for (int k = 0; k < 4; ++k) {
    // fmaxf would turn NaN into 0 and keep a box that the CPU path drops.
    if (view.clip_width >= 0 && !isnan(box[k]))
      box[k] = fminf(fmaxf(box[k], 0.0f), k % 2 == 0 ? view.clip_width : view.clip_height);
    boxes[4 * i + k] = box[k];
  }
  scores[i] = score_of(rule, products[i]);
  labels[i] = keys[i] % view.classes;
  positions[i] = cell;
}

}  // namespace

void find_candidates_cuda(const DecodeView& view, const DecodeRule& rule, const bool* allowed,
                          float* products, int64_t* keys, int32_t* count, void* stream) {
  const int64_t size = view.classes * view.cells();
  if (size == 0) return;
  with_device_scalar(view.kind, [&]<class T>(T) {
    find<T><<<blocks_for(size), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(view, rule, allowed, size,
                                                                                  products, keys, count);
  });
  check_launch("fcos_decode");
}

void decode_boxes_cuda(const DecodeView& view, const DecodeRule& rule, const float* products,
                       const int64_t* keys, int64_t n, float* boxes, float* scores, int64_t* labels,
                       int64_t* positions, void* stream) {
  if (n == 0) return;
  with_device_scalar(view.kind, [&]<class T>(T) {
    decode<T><<<blocks_for(n), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        view, rule, products, keys, n, boxes, scores, labels, positions);
  });
  check_launch("fcos_decode");
}

}  // namespace instseg::kernels
