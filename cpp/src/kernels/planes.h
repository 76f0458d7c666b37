// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

// Layers of 1x1 convolution over planes: kPlane consecutive pixels of one channel, a pixel per vector lane. A
// layer is a small matrix product over planes, so that any depth and width takes the same path. kLanes is the
// width of the machine's registers (float_lanes() in isa.h); everything is inlined into a function compiled
// for it.
namespace instseg::kernels {

constexpr int64_t kPlane = 256;
constexpr int64_t kLine = 16;

// Memory for planes and sums, aligned to the widest vector.
struct alignas(64) Line {
  float at[kLine];
};

template <int64_t kLanes>
struct Simd {
  typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
  typedef float Loose __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));
};
template <int64_t kLanes>
using Vector = typename Simd<kLanes>::Vector;

// By reference: vectors as arguments would depend on the instruction set.
template <int64_t kLanes>
[[gnu::always_inline]] inline void load(const float* from, Vector<kLanes>& to) {
  to = *reinterpret_cast<const typename Simd<kLanes>::Loose*>(from);
}

template <int64_t kLanes>
[[gnu::always_inline]] inline void store(const Vector<kLanes>& from, float* to) {
  *reinterpret_cast<typename Simd<kLanes>::Loose*>(to) = from;
}

// out = weight^T in, of planes; weight of input i and output o at weight[i * weight_stride + o].
struct Layer {
  const float* in;
  int64_t inputs;
  const float* weight;
  int64_t weight_stride;
  const float* bias = nullptr;  // [outputs]; null: none
  float* out;
  int64_t outputs;
  bool add = false;  // to what is in out
  bool relu = false;
  const float* gate = nullptr;  // planes like out; the result is 0 where they are not positive
};

// kOut planes by kWide vectors held in registers.
template <int64_t kLanes, int64_t kOut, int64_t kWide>
[[gnu::always_inline]] inline void layer_tile(const Layer& layer, int64_t output, int64_t pixel) {
  Vector<kLanes> sums[kOut][kWide];
  float* out = layer.out + output * kPlane + pixel;
#pragma GCC unroll 8
  for (int64_t o = 0; o < kOut; ++o) {
#pragma GCC unroll 8
    for (int64_t k = 0; k < kWide; ++k) {
      sums[o][k] = Vector<kLanes>{};
      if (layer.bias) sums[o][k] += layer.bias[output + o];
      if (layer.add) load<kLanes>(out + o * kPlane + k * kLanes, sums[o][k]);
    }
  }
  const float* weight = layer.weight + output;
  const float* in = layer.in + pixel;
  for (int64_t i = 0; i < layer.inputs; ++i, weight += layer.weight_stride, in += kPlane) {
    Vector<kLanes> x[kWide];
#pragma GCC unroll 8
    for (int64_t k = 0; k < kWide; ++k) load<kLanes>(in + k * kLanes, x[k]);
#pragma GCC unroll 8
    for (int64_t o = 0; o < kOut; ++o) {
#pragma GCC unroll 8
      for (int64_t k = 0; k < kWide; ++k) sums[o][k] += x[k] * weight[o];
    }
  }
#pragma GCC unroll 8
  for (int64_t o = 0; o < kOut; ++o) {
#pragma GCC unroll 8
    for (int64_t k = 0; k < kWide; ++k) {
      const int64_t place = o * kPlane + k * kLanes;
      if (layer.relu) sums[o][k] = sums[o][k] < 0.0f ? Vector<kLanes>{} : sums[o][k];  // NaN stays NaN
      if (layer.gate) {
        Vector<kLanes> gate;
        load<kLanes>(layer.gate + output * kPlane + pixel + place, gate);
        sums[o][k] = gate > 0.0f ? sums[o][k] : Vector<kLanes>{};
      }
      store<kLanes>(sums[o][k], out + place);
    }
  }
}

template <int64_t kLanes, int64_t kOut, int64_t kWide>
[[gnu::always_inline]] inline void layer_rows(const Layer& layer, int64_t output, int64_t vectors) {
  int64_t k = 0;
  for (; k + kWide <= vectors; k += kWide) layer_tile<kLanes, kOut, kWide>(layer, output, k * kLanes);
  for (; k < vectors; ++k) layer_tile<kLanes, kOut, 1>(layer, output, k * kLanes);
}

template <int64_t kLanes>
[[gnu::always_inline]] inline void run_layer(const Layer& layer, int64_t vectors) {
  int64_t o = 0;
  for (; o + 8 <= layer.outputs; o += 8) layer_rows<kLanes, 8, 1>(layer, o, vectors);
  for (; o + 4 <= layer.outputs; o += 4) layer_rows<kLanes, 4, 2>(layer, o, vectors);
  for (; o < layer.outputs; ++o) layer_rows<kLanes, 1, 4>(layer, o, vectors);
}

// sums[o][i] += in-lane sums over pixels of delta[o] * in[i].
template <int64_t kLanes, int64_t kOut, int64_t kIn>
[[gnu::always_inline]] inline void outer_tile(const float* delta, const float* in, int64_t vectors,
                                              Line* sums, int64_t stride) {
  Vector<kLanes> total[kOut][kIn];
#pragma GCC unroll 4
  for (int64_t o = 0; o < kOut; ++o) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < kIn; ++i) load<kLanes>(sums[o * stride + i].at, total[o][i]);
  }
  for (int64_t k = 0; k < vectors; ++k, delta += kLanes, in += kLanes) {
    Vector<kLanes> x[kIn];
#pragma GCC unroll 4
    for (int64_t i = 0; i < kIn; ++i) load<kLanes>(in + i * kPlane, x[i]);
#pragma GCC unroll 4
    for (int64_t o = 0; o < kOut; ++o) {
      Vector<kLanes> d;
      load<kLanes>(delta + o * kPlane, d);
#pragma GCC unroll 4
      for (int64_t i = 0; i < kIn; ++i) total[o][i] += d * x[i];
    }
  }
#pragma GCC unroll 4
  for (int64_t o = 0; o < kOut; ++o) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < kIn; ++i) store<kLanes>(total[o][i], sums[o * stride + i].at);
  }
}

template <int64_t kLanes, int64_t kOut>
[[gnu::always_inline]] inline void outer_rows(const float* delta, const float* in, int64_t inputs,
                                              int64_t vectors, Line* sums) {
  constexpr int64_t kWide = kLanes == 16 ? 4 : 2;  // as many sums as there are registers for
  int64_t i = 0;
  for (; i + kWide <= inputs; i += kWide) {
    outer_tile<kLanes, kOut, kWide>(delta, in + i * kPlane, vectors, sums + i, inputs);
  }
  for (; i + 2 <= inputs; i += 2) {
    outer_tile<kLanes, kOut, 2>(delta, in + i * kPlane, vectors, sums + i, inputs);
  }
  for (; i < inputs; ++i) {
    outer_tile<kLanes, kOut, 1>(delta, in + i * kPlane, vectors, sums + i, inputs);
  }
}

// Gradient of one layer by its weights (at `weights`) and biases (at `biases`), lane by lane.
template <int64_t kLanes>
[[gnu::always_inline]] inline void add_layer_slopes(const float* delta, int64_t outputs, const float* in,
                                                    int64_t inputs, int64_t vectors, Line* weights,
                                                    Line* biases) {
  int64_t o = 0;
  for (; o + 4 <= outputs; o += 4) {
    outer_rows<kLanes, 4>(delta + o * kPlane, in, inputs, vectors, weights + o * inputs);
  }
  for (; o < outputs; ++o) {
    outer_rows<kLanes, 1>(delta + o * kPlane, in, inputs, vectors, weights + o * inputs);
  }
  for (o = 0; o < outputs; ++o) {
    Vector<kLanes> total, d;
    load<kLanes>(biases[o].at, total);
    for (int64_t k = 0; k < vectors; ++k) {
      load<kLanes>(delta + o * kPlane + k * kLanes, d);
      total += d;
    }
    store<kLanes>(total, biases[o].at);
  }
}

}  // namespace instseg::kernels
