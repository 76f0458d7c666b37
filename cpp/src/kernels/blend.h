// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/resize.h"

namespace instseg::kernels {

/** What the blender reads. */
struct BlendInput {
  const float* bases;      // [images, height, width, channels]
  const float* boxes;      // [instances, 4] x1, y1, x2, y2
  const int64_t* image;    // [instances]; an instance of no image gets zeros
  const float* attention;  // [instances, channels, cells, cells]
  int64_t instances, images, height, width, channels, cells, size;
  float scale;  // cells of the bases per unit of the boxes
};

/**
 * Sample i of `size` over an axis of aligned RoIAlign, one sample a bin: beyond -1..cells there is none
 * (index0 = -1), within a cell of the map its border is read. Rounded as torchvision's roi_align.
 */
INSTSEG_HD LinearTap<float> roi_tap(float low, float high, float scale, int64_t i, int64_t size,
                                    int64_t cells) {
  const float start = sub_rn(mul_rn(low, scale), 0.5f), end = sub_rn(mul_rn(high, scale), 0.5f);
  const float bin = div_rn(sub_rn(end, start), static_cast<float>(size));
  const float x = add_rn(add_rn(start, mul_rn(static_cast<float>(i), bin)), mul_rn(0.5f, bin));
  if (!(x >= -1.0f && x <= static_cast<float>(cells))) return {-1, -1, 0.0f, 0.0f};  // also NaN
  const int32_t last = static_cast<int32_t>(cells) - 1;
  const int32_t index = x > 0.0f ? static_cast<int32_t>(x) : 0;
  if (index >= last) return {last, last, 1.0f, 0.0f};
  const float weight = x > 0.0f ? sub_rn(x, static_cast<float>(index)) : 0.0f;
  return {index, index + 1, 1.0f - weight, weight};
}

/** Index i of `size` when `cells` are enlarged bilinearly with half-pixel centers. */
INSTSEG_HD LinearTap<float> attention_tap(int64_t i, int64_t size, int64_t cells) {
  const float step = div_rn(static_cast<float>(cells), static_cast<float>(size));
  const float x = sub_rn(mul_rn(step, add_rn(static_cast<float>(i), 0.5f)), 0.5f);
  const int32_t last = static_cast<int32_t>(cells) - 1;
  const int32_t index = x > 0.0f ? static_cast<int32_t>(x) : 0;
  if (index >= last) return {last, last, 1.0f, 0.0f};
  const float weight = x > 0.0f ? sub_rn(x, static_cast<float>(index)) : 0.0f;
  return {index, index + 1, 1.0f - weight, weight};
}

// ---- CPU: blend_forward.cpp, blend_backward.cpp ----
/** logits [instances, size, size] of instances begin..end-1. */
void blend_cpu(const BlendInput& in, int64_t begin, int64_t end, float* logits);

/** grad_attention (as attention) of instances begin..end-1 from grad (as logits). */
void blend_attention_backward_cpu(const BlendInput& in, const float* grad, int64_t begin, int64_t end,
                                  float* grad_attention);

/** work [images * height + 1]: samples read from all rows of the bases before each one. */
void blend_row_work_cpu(const BlendInput& in, int64_t* work);

/**
 * Adds to rows begin..end-1 of grad_bases (as bases; rows counted through the images). Each cell adds up in
 * the order of the instances, so the result does not depend on how the rows are divided.
 */
void blend_bases_backward_cpu(const BlendInput& in, const float* grad, int64_t begin, int64_t end,
                              float* grad_bases);

// ---- CUDA: all pointers are device memory, `stream` is a cudaStream_t ----
void blend_cuda(const BlendInput& in, float* logits, void* stream);
void blend_attention_backward_cuda(const BlendInput& in, const float* grad, float* grad_attention,
                                   void* stream);
/** Adds to grad_bases with atomics, in no fixed order. */
void blend_bases_backward_cuda(const BlendInput& in, const float* grad, float* grad_bases, void* stream);

}  // namespace instseg::kernels
