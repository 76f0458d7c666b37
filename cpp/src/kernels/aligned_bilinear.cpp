// SPDX-License-Identifier: Apache-2.0
#include "kernels/aligned_bilinear.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu_scalar.h"
#include "kernels/isa.h"

// Rows first, then columns: a row of the result is the blend of two rows, widened. The gradient goes the
// other way: a row gathers its share of the rows it reached, and is then narrowed.
namespace instseg::kernels {

INSTSEG_CLONES void blend_lines(const float* low, const float* high, float weight, int64_t n,
                                float* __restrict out) {
  for (int64_t k = 0; k < n; ++k) out[k] = (1.0f - weight) * low[k] + weight * high[k];
}

INSTSEG_CLONES void add_scaled(const float* line, float weight, int64_t n, float* __restrict out) {
  for (int64_t k = 0; k < n; ++k) out[k] += weight * line[k];
}

namespace {

// A factor known to the compiler makes the steps of `factor` through memory shuffles of whole vectors.
template <int64_t kFactor>
[[gnu::always_inline]] inline void widen(const float* line, int64_t width, int64_t any_factor,
                                         float* __restrict out) {
  const int64_t factor = kFactor > 0 ? kFactor : any_factor, shift = factor / 2;
  for (int64_t r = 0; r < shift; ++r) out[r] = line[0];
  out += shift;
  const float step = 1.0f / static_cast<float>(factor);
  for (int64_t i = 0; i + 1 < width; ++i) {
#pragma GCC unroll 8
    for (int64_t r = 0; r < factor; ++r) {
      const float weight = static_cast<float>(r) * step;
      out[factor * i + r] = (1.0f - weight) * line[i] + weight * line[i + 1];
    }
  }
  for (int64_t r = 0; r < factor - shift; ++r) out[factor * (width - 1) + r] = line[width - 1];
}

// line [factor - 1 zeros, factor * width, factor - 1 zeros], edges folded; index 0 is the center of input 0.
template <int64_t kFactor>
[[gnu::always_inline]] inline void narrow(const float* line, int64_t width, int64_t any_factor,
                                          float* __restrict out) {
  const int64_t factor = kFactor > 0 ? kFactor : any_factor;
  const float step = 1.0f / static_cast<float>(factor);
  for (int64_t i = 0; i < width; ++i) {
    float sum = line[factor * i];
#pragma GCC unroll 8
    for (int64_t r = 1; r < factor; ++r) {
      sum += (1.0f - static_cast<float>(r) * step) * (line[factor * i - r] + line[factor * i + r]);
    }
    out[i] = sum;
  }
}

}  // namespace

INSTSEG_CLONES void widen_line(const float* line, int64_t width, int64_t factor, float* out) {
  if (factor == 2) return widen<2>(line, width, factor, out);
  if (factor == 4) return widen<4>(line, width, factor, out);
  if (factor == 8) return widen<8>(line, width, factor, out);
  widen<0>(line, width, factor, out);
}

INSTSEG_CLONES void narrow_line(const float* line, int64_t width, int64_t factor, float* out) {
  if (factor == 2) return narrow<2>(line, width, factor, out);
  if (factor == 4) return narrow<4>(line, width, factor, out);
  if (factor == 8) return narrow<8>(line, width, factor, out);
  narrow<0>(line, width, factor, out);
}

namespace {

// n elements as float: themselves, or converted into `buffer`.
const float* as_floats(const float* from, int64_t, std::vector<float>&) { return from; }

template <class T>
const float* as_floats(const T* from, int64_t n, std::vector<float>& buffer) {
  buffer.resize(n);
  std::transform(from, from + n, buffer.begin(), [](T value) { return static_cast<float>(value); });
  return buffer.data();
}

template <class T>
void write(const float* from, int64_t n, T* to) {
  std::transform(from, from + n, to, [](float value) { return static_cast<T>(value); });
}

template <class T>
void enlarge_rows(const T* x, const EnlargeShape& shape, int64_t begin, int64_t end, T* out) {
  const int64_t rows = shape.factor * shape.height, columns = shape.factor * shape.width;
  const int64_t inner = shape.inner, length = shape.width * inner;
  std::vector<float> low_buffer, high_buffer, line(length), wide(columns * inner);
  for (int64_t row = begin; row < end; ++row) {
    const T* map = x + row / rows * shape.height * length;
    const EnlargeTap tap = enlarge_tap(row % rows, shape.height, shape.factor);
    blend_lines(as_floats(map + tap.low * length, length, low_buffer),
                as_floats(map + tap.high * length, length, high_buffer), tap.weight, length, line.data());
    if (inner == 1) {
      widen_line(line.data(), shape.width, shape.factor, wide.data());
    } else {
      for (int64_t j = 0; j < columns; ++j) {
        const EnlargeTap across = enlarge_tap(j, shape.width, shape.factor);
        blend_lines(line.data() + across.low * inner, line.data() + across.high * inner, across.weight, inner,
                    wide.data() + j * inner);
      }
    }
    write(wide.data(), columns * inner, out + row * columns * inner);
  }
}

// Puts what lies outside of the first and last center onto them.
void fold_edges(float* line, int64_t width, int64_t factor) {
  float* last = line + factor * (width - 1);
  for (int64_t r = 1; r < factor; ++r) {
    line[0] += line[-r];
    last[0] += last[r];
    line[-r] = last[r] = 0;
  }
}

template <class T>
void gather_rows(const T* grad, const EnlargeShape& shape, int64_t begin, int64_t end, T* grad_x) {
  const int64_t factor = shape.factor, inner = shape.inner;
  const int64_t columns = factor * shape.width, length = columns * inner;
  const int64_t margin = inner == 1 ? factor - 1 - factor / 2 : 0;  // zeros, then output 0
  std::vector<float> buffer, tall((columns + 2 * factor) * inner), narrowed(shape.width * inner);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t map = row / shape.height, y = row % shape.height;
    std::fill(tall.begin(), tall.end(), 0.0f);
    const EnlargeReach reach = enlarge_reach(y, shape.height, factor);
    for (int64_t j = reach.first; j <= reach.last; ++j) {
      const T* from = grad + (map * factor * shape.height + j) * length;
      add_scaled(as_floats(from, length, buffer), enlarge_weight(y, j, shape.height, factor), length,
                 tall.data() + margin);
    }
    if (inner == 1) {
      float* line = tall.data() + factor - 1;
      fold_edges(line, shape.width, factor);
      narrow_line(line, shape.width, factor, narrowed.data());
    } else {
      std::fill(narrowed.begin(), narrowed.end(), 0.0f);
      for (int64_t i = 0; i < shape.width; ++i) {
        const EnlargeReach across = enlarge_reach(i, shape.width, factor);
        for (int64_t j = across.first; j <= across.last; ++j) {
          add_scaled(tall.data() + j * inner, enlarge_weight(i, j, shape.width, factor), inner,
                     narrowed.data() + i * inner);
        }
      }
    }
    write(narrowed.data(), shape.width * inner, grad_x + row * shape.width * inner);
  }
}

}  // namespace

void aligned_bilinear_cpu(const void* x, ScalarKind kind, const EnlargeShape& shape, int64_t begin,
                          int64_t end, void* out) {
  with_scalar(kind, [&]<class T>(T) {
    enlarge_rows(static_cast<const T*>(x), shape, begin, end, static_cast<T*>(out));
  });
}

void aligned_bilinear_backward_cpu(const void* grad, ScalarKind kind, const EnlargeShape& shape,
                                   int64_t begin, int64_t end, void* grad_x) {
  with_scalar(kind, [&]<class T>(T) {
    gather_rows(static_cast<const T*>(grad), shape, begin, end, static_cast<T*>(grad_x));
  });
}

}  // namespace instseg::kernels
