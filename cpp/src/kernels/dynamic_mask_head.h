// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace instseg::kernels {

enum class HeadCoordinates : int { none, relative, absolute };

// What the CUDA kernels hold per thread and per block sets these.
constexpr int64_t kMaxHeadDepth = 8;
constexpr int64_t kMaxHeadWidth = 32;
constexpr int64_t kMaxHeadChannels = 32;

/** Where the parameters of one instance lie: all weights [out][in] by layer, then all biases. */
struct HeadLayout {
  int64_t inputs;  // of the first layer: coordinates (0 or 2), then channels
  int64_t depth;
  int64_t width;
};

INSTSEG_HD int64_t layer_inputs(const HeadLayout& head, int64_t layer) {
  return layer == 0 ? head.inputs : head.width;
}
INSTSEG_HD int64_t layer_outputs(const HeadLayout& head, int64_t layer) {
  return layer == head.depth - 1 ? 1 : head.width;
}
INSTSEG_HD int64_t weight_start(const HeadLayout& head, int64_t layer) {
  return layer == 0 ? 0 : head.inputs * head.width + (layer - 1) * head.width * head.width;
}
INSTSEG_HD int64_t bias_start(const HeadLayout& head, int64_t layer) {
  const int64_t last = head.depth - 1;
  return weight_start(head, last) + layer_inputs(head, last) + layer * head.width;
}
INSTSEG_HD int64_t parameter_count(const HeadLayout& head) { return bias_start(head, head.depth - 1) + 1; }

/** The operands of one call; every array is contiguous. */
struct HeadView {
  HeadLayout head;
  HeadCoordinates coordinates;
  int64_t stride;           // network pixels per cell
  const float* features;    // [batch, channels, height, width]
  const float* parameters;  // [instances, parameter_count]
  const int64_t* images;    // [instances]
  const float* locations;   // [instances, 2] x, y
  const float* scales;      // [instances]
  int64_t batch, channels, height, width, instances;
  int lanes = 0;  // CPU: float_lanes() or fewer
};

INSTSEG_HD int64_t coordinate_inputs(const HeadView& view) {
  return view.coordinates == HeadCoordinates::none ? 0 : 2;
}

/** Position of a cell in the network image, or from -1 to 1 over `cells` cells for absolute coordinates. */
INSTSEG_HD float cell_position(const HeadView& view, int64_t index, int64_t cells) {
  const float pixel = static_cast<float>(index * view.stride + view.stride / 2);
  if (view.coordinates != HeadCoordinates::absolute) return pixel;
  return 2.0f * pixel / static_cast<float>(cells * view.stride) - 1.0f;
}

/** Rows of one image: which instances, by ascending index. */
struct InstanceRows {
  const int64_t* rows;
  int64_t count;
};

constexpr int64_t kHeadBlock = 256;  // pixels worked on together on the CPU
constexpr int64_t kHeadSpan = 1024;  // pixels whose gradient by the parameters is one partial sum

/** packed [instances, parameter_count]: the parameters with weights as [in][out]; instances begin..end-1. */
void pack_heads_cpu(const HeadView& view, int64_t begin, int64_t end, float* packed);

/** logits [instances, height, width] at pixels first..first+kHeadBlock-1 (those that exist) of one image. */
void dynamic_mask_head_cpu(const HeadView& view, const float* packed, int64_t image, InstanceRows instances,
                           int64_t first, float* logits);

/**
 * Gradients from pixels first..first+kHeadSpan-1 of one image; either may be null.
 * grad_features [batch, channels, height, width] is written at these pixels,
 * partial [instances, parameter_count] at these instances.
 */
void dynamic_mask_head_backward_cpu(const HeadView& view, const float* packed, int64_t image,
                                    InstanceRows instances, int64_t first, const float* grad_logits,
                                    float* grad_features, float* partial);

/** total [size] = the sum of partial [spans, size] over the spans, in their order; entries begin..end-1. */
void sum_spans_cpu(const float* partial, int64_t spans, int64_t size, int64_t begin, int64_t end,
                   float* total);

/** logits [instances, height, width]; instances of no image in the batch get NaN. */
void dynamic_mask_head_cuda(const HeadView& view, float* logits, void* stream);

/** order [instances]: instances sorted by image; starts [batch + 1]: where each image's begin in it. */
void dynamic_mask_head_features_cuda(const HeadView& view, const int64_t* order, const int64_t* starts,
                                     const float* grad_logits, float* grad_features, void* stream);

/** Pixels per partial sum on CUDA. */
constexpr int64_t kHeadCudaSpan = 4096;

/**
 * partial [spans, instances, parameter_count], spans = ceil(height * width / kHeadCudaSpan); 0 for instances
 * of no image.
 */
void dynamic_mask_head_parameters_cuda(const HeadView& view, const float* grad_logits, float* partial,
                                       void* stream);

}  // namespace instseg::kernels
