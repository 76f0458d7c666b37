// SPDX-License-Identifier: Apache-2.0
#include "kernels/dynamic_mask_head.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/isa.h"
#include "kernels/planes.h"

namespace instseg::kernels {
namespace {

static_assert(kHeadBlock == kPlane);

// The planes of one block of pixels of one image.
struct Block {
  int64_t first, pixels;
  float* input;      // [inputs]: coordinates, then features
  float* positions;  // [2]: x and y of the cells
  float* slopes;     // [channels]: gradient by the features; null in the forward pass
  int64_t vectors(int64_t lanes) const { return (pixels + lanes - 1) / lanes; }
};

// The planes that one instance after the other uses.
struct Scratch {
  float* hidden;  // [depth - 1][width]
  float* delta;   // [max(width, 1)]
  float* next;    // as delta
};

void load_block(const HeadView& view, int64_t image, Block& block) {
  const int64_t cells = view.height * view.width, coordinates = coordinate_inputs(view);
  for (int64_t c = 0; c < view.channels; ++c) {
    const float* from = view.features + (image * view.channels + c) * cells + block.first;
    std::copy_n(from, block.pixels, block.input + (coordinates + c) * kHeadBlock);
  }
  if (coordinates == 0) return;
  float* to = view.coordinates == HeadCoordinates::absolute ? block.input : block.positions;
  for (int64_t i = 0; i < block.pixels; ++i) {
    to[i] = cell_position(view, (block.first + i) % view.width, view.width);
    to[kHeadBlock + i] = cell_position(view, (block.first + i) / view.width, view.height);
  }
}

template <int64_t kLanes>
[[gnu::always_inline]] inline void place_coordinates(const HeadView& view, int64_t instance,
                                                     const Block& block) {
  if (view.coordinates != HeadCoordinates::relative) return;
  const float unit = 1.0f / view.scales[instance];
  for (int64_t axis = 0; axis < 2; ++axis) {
    const float origin = view.locations[2 * instance + axis];
    for (int64_t k = 0; k < block.vectors(kLanes); ++k) {
      Vector<kLanes> position;
      load<kLanes>(block.positions + axis * kHeadBlock + k * kLanes, position);
      store<kLanes>((origin - position) * unit, block.input + axis * kHeadBlock + k * kLanes);
    }
  }
}

template <int64_t kLanes>
[[gnu::always_inline]] inline void run_layer_of(const HeadView& view, const float* packed, int64_t layer,
                                                const Block& block, const float* in, float* out) {
  const HeadLayout& head = view.head;
  const int64_t outputs = layer_outputs(head, layer);
  run_layer<kLanes>({.in = in,
                     .inputs = layer_inputs(head, layer),
                     .weight = packed + weight_start(head, layer),
                     .weight_stride = outputs,
                     .bias = packed + bias_start(head, layer),
                     .out = out,
                     .outputs = outputs,
                     .relu = layer < head.depth - 1},
                    block.vectors(kLanes));
}

// The hidden layers of one instance; returns the input of the last layer.
template <int64_t kLanes>
[[gnu::always_inline]] inline const float* run_hidden(const HeadView& view, const float* packed,
                                                      const Block& block, float* hidden) {
  const float* in = block.input;
  for (int64_t layer = 0; layer < view.head.depth - 1; ++layer) {
    float* out = hidden + layer * view.head.width * kHeadBlock;
    run_layer_of<kLanes>(view, packed, layer, block, in, out);
    in = out;
  }
  return in;
}

struct Task {
  const HeadView& view;
  const float* packed;  // [parameter_count] of this instance
  int64_t instance;
  const Block& block;
  const Scratch& scratch;
  Line* sums;  // [parameter_count], added to lane by lane; null: not wanted
};

// scratch.delta [1] receives the logits.
template <int64_t kLanes>
[[gnu::always_inline]] inline void run_head(const Task& task) {
  place_coordinates<kLanes>(task.view, task.instance, task.block);
  const float* in = run_hidden<kLanes>(task.view, task.packed, task.block, task.scratch.hidden);
  run_layer_of<kLanes>(task.view, task.packed, task.view.head.depth - 1, task.block, in, task.scratch.delta);
}

// scratch.delta [1] holds the gradient by the logits.
template <int64_t kLanes>
[[gnu::always_inline]] inline void run_head_backward(const Task& task) {
  const HeadView& view = task.view;
  const HeadLayout& head = view.head;
  const float* parameters = view.parameters + task.instance * parameter_count(head);
  const int64_t vectors = task.block.vectors(kLanes);
  place_coordinates<kLanes>(view, task.instance, task.block);
  run_hidden<kLanes>(view, task.packed, task.block, task.scratch.hidden);
  float *delta = task.scratch.delta, *next = task.scratch.next;
  for (int64_t layer = head.depth - 1; layer >= 0; --layer) {
    const int64_t inputs = layer_inputs(head, layer), outputs = layer_outputs(head, layer);
    const float* in =
        layer == 0 ? task.block.input : task.scratch.hidden + (layer - 1) * head.width * kHeadBlock;
    if (task.sums) {
      add_layer_slopes<kLanes>(delta, outputs, in, inputs, vectors, task.sums + weight_start(head, layer),
                               task.sums + bias_start(head, layer));
    }
    Layer back{.in = delta, .inputs = outputs, .weight = parameters + weight_start(head, layer)};
    back.weight_stride = inputs;
    if (layer > 0) {
      back.out = next, back.outputs = inputs, back.gate = in;
    } else {
      if (!task.block.slopes) return;
      back.weight += coordinate_inputs(view);
      back.out = task.block.slopes, back.outputs = view.channels, back.add = true;
    }
    run_layer<kLanes>(back, vectors);
    std::swap(delta, next);
  }
}

INSTSEG_V4 void run_head_v4(const Task& task) { run_head<16>(task); }
INSTSEG_V3 void run_head_v3(const Task& task) { run_head<8>(task); }
void run_head_plain(const Task& task) { run_head<4>(task); }
INSTSEG_V4 void run_head_backward_v4(const Task& task) { run_head_backward<16>(task); }
INSTSEG_V3 void run_head_backward_v3(const Task& task) { run_head_backward<8>(task); }
void run_head_backward_plain(const Task& task) { run_head_backward<4>(task); }

using Runner = void (*)(const Task&);
Runner head_runner(int lanes) {
  return lanes == 16 ? run_head_v4 : lanes == 8 ? run_head_v3 : run_head_plain;
}
Runner backward_runner(int lanes) {
  return lanes == 16 ? run_head_backward_v4 : lanes == 8 ? run_head_backward_v3 : run_head_backward_plain;
}

}  // namespace

void pack_heads_cpu(const HeadView& view, int64_t begin, int64_t end, float* packed) {
  const HeadLayout& head = view.head;
  const int64_t count = parameter_count(head), biases = bias_start(head, 0);
  for (int64_t n = begin; n < end; ++n) {
    const float* from = view.parameters + n * count;
    float* to = packed + n * count;
    for (int64_t layer = 0; layer < head.depth; ++layer) {
      const int64_t inputs = layer_inputs(head, layer), outputs = layer_outputs(head, layer);
      const int64_t start = weight_start(head, layer);
      for (int64_t o = 0; o < outputs; ++o) {
        for (int64_t i = 0; i < inputs; ++i) to[start + i * outputs + o] = from[start + o * inputs + i];
      }
    }
    std::copy(from + biases, from + count, to + biases);
  }
}

namespace {

int64_t plane_lines(int64_t planes) { return planes * (kHeadBlock / kLine); }

// Blocks and scratch in one piece of memory.
struct Workspace {
  std::vector<Line> memory;
  std::vector<Block> blocks;
  Scratch scratch;

  Workspace(const HeadView& view, int64_t image, int64_t first, int64_t end, bool slopes) {
    const HeadLayout& head = view.head;
    const int64_t block_planes = head.inputs + 2 + (slopes ? view.channels : 0);
    const int64_t hidden_planes = (head.depth - 1) * head.width;
    const int64_t count = (end - first + kHeadBlock - 1) / kHeadBlock;
    memory.resize(plane_lines(count * block_planes + hidden_planes + 2 * head.width));
    float* place = memory.data()->at;
    const auto take = [&](int64_t planes) {
      float* taken = place;
      place += planes * kHeadBlock;
      return taken;
    };
    for (int64_t i = 0; i < count; ++i) {
      const int64_t start = first + i * kHeadBlock;
      blocks.push_back({start, std::min(kHeadBlock, end - start), take(head.inputs), take(2), nullptr});
      if (slopes) blocks.back().slopes = take(view.channels);
      load_block(view, image, blocks.back());
    }
    scratch = {take(hidden_planes), take(head.width), take(head.width)};
  }
};

// Sums the lanes in a fixed order.
void write_sums(const std::vector<Line>& sums, float* out) {
  for (size_t p = 0; p < sums.size(); ++p) {
    float lanes[kLine];
    std::copy_n(sums[p].at, kLine, lanes);
    for (int64_t half = kLine / 2; half > 0; half /= 2) {
      for (int64_t k = 0; k < half; ++k) lanes[k] += lanes[k + half];
    }
    out[p] = lanes[0];
  }
}

}  // namespace

void dynamic_mask_head_cpu(const HeadView& view, const float* packed, int64_t image, InstanceRows instances,
                           int64_t first, float* logits) {
  const int64_t cells = view.height * view.width, count = parameter_count(view.head);
  const Workspace space(view, image, first, std::min(cells, first + kHeadBlock), false);
  const Runner run = head_runner(view.lanes);
  for (int64_t i = 0; i < instances.count; ++i) {
    const int64_t n = instances.rows[i];
    run({view, packed + n * count, n, space.blocks[0], space.scratch, nullptr});
    std::copy_n(space.scratch.delta, space.blocks[0].pixels, logits + n * cells + first);
  }
}

void dynamic_mask_head_backward_cpu(const HeadView& view, const float* packed, int64_t image,
                                    InstanceRows instances, int64_t first, const float* grad_logits,
                                    float* grad_features, float* partial) {
  const int64_t cells = view.height * view.width, count = parameter_count(view.head);
  const Workspace space(view, image, first, std::min(cells, first + kHeadSpan), grad_features != nullptr);
  std::vector<Line> sums(partial ? count : 0);
  const Runner run = backward_runner(view.lanes);
  for (int64_t i = 0; i < instances.count; ++i) {
    const int64_t n = instances.rows[i];
    std::fill(sums.begin(), sums.end(), Line{});
    for (const Block& block : space.blocks) {
      std::copy_n(grad_logits + n * cells + block.first, block.pixels, space.scratch.delta);
      std::fill(space.scratch.delta + block.pixels, space.scratch.delta + kHeadBlock, 0.0f);
      run({view, packed + n * count, n, block, space.scratch, partial ? sums.data() : nullptr});
    }
    if (partial) write_sums(sums, partial + n * count);
  }
  if (!grad_features) return;
  for (const Block& block : space.blocks) {
    for (int64_t c = 0; c < view.channels; ++c) {
      std::copy_n(block.slopes + c * kHeadBlock, block.pixels,
                  grad_features + (image * view.channels + c) * cells + block.first);
    }
  }
}

void sum_spans_cpu(const float* partial, int64_t spans, int64_t size, int64_t begin, int64_t end,
                   float* total) {
  std::fill(total + begin, total + end, 0.0f);
  for (int64_t span = 0; span < spans; ++span) {
    for (int64_t k = begin; k < end; ++k) total[k] += partial[span * size + k];
  }
}

}  // namespace instseg::kernels
