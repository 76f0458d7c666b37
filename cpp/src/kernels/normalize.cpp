// SPDX-License-Identifier: Apache-2.0
#include "kernels/normalize.h"

#include <ATen/Parallel.h>

#include <algorithm>

namespace instseg::kernels {
namespace {

constexpr int64_t kRowGrain = 16;  // rows per task

// Fills the padded output: `pixels(row, out)` writes the image part of a row.
template <class T, class Pixels>
void padded_rows(const T* in, const Normalization& how, float* out, const Pixels& pixels) {
  const int64_t in_row = 3 * how.width, out_row = 3 * how.padded_width;
  at::parallel_for(0, how.padded_height, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      float* row = out + y * out_row;
      if (y < how.height) pixels(in + y * in_row, row);
      std::fill(row + (y < how.height ? in_row : 0), row + out_row, 0.f);
    }
  });
}

float normalized(float value, const Normalization& how, int c) { return (value - how.mean[c]) / how.std[c]; }

}  // namespace

void normalize(const uint8_t* in, const Normalization& how, float* out) {
  float table[3][256];  // a byte has 256 results
  for (int c = 0; c < 3; ++c) {
    for (int value = 0; value < 256; ++value) table[c][value] = normalized(static_cast<float>(value), how, c);
  }
  padded_rows(in, how, out, [&](const uint8_t* row, float* target) {
    const int64_t source0 = how.source[0], source1 = how.source[1], source2 = how.source[2];
    for (int64_t x = 0; x < how.width; ++x, row += 3, target += 3) {
      target[0] = table[0][row[source0]];
      target[1] = table[1][row[source1]];
      target[2] = table[2][row[source2]];
    }
  });
}

void normalize(const float* in, const Normalization& how, float* out) {
  padded_rows(in, how, out, [&](const float* row, float* target) {
    for (int64_t x = 0; x < how.width; ++x, row += 3, target += 3) {
      for (int c = 0; c < 3; ++c) target[c] = normalized(row[how.source[c]], how, c);
    }
  });
}

}  // namespace instseg::kernels
