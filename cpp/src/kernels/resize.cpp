// SPDX-License-Identifier: Apache-2.0
#include "kernels/resize.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "kernels/isa.h"

namespace instseg::kernels {
namespace {

constexpr int64_t kRowGrain = 16;  // rows per task
constexpr int32_t kHalf = 1 << 21;
constexpr int64_t kChunk = 512;  // bytes of a row filtered at once, so that the sums stay in the L1 cache

// Inlined by force: the copy must be compiled for the instruction set of its caller.
// The sums cannot leave 0..255: weights are not negative and add up to 1 within rounding.
template <int kTaps>
inline __attribute__((always_inline)) void filter_pixels(const uint8_t* in, const FilterAxis& axis,
                                                         int64_t width, uint8_t* out) {
  const int64_t taps = kTaps ? kTaps : axis.taps;
  const int32_t* weights = axis.weights.data();
  const int32_t* start = axis.start.data();
  for (int64_t x = 0; x < width; ++x, weights += taps, out += 3) {
    const uint8_t* pixel = in + 3 * static_cast<int64_t>(start[x]);
    int32_t sum0 = kHalf, sum1 = kHalf, sum2 = kHalf;
    for (int64_t t = 0; t < taps; ++t) {
      sum0 += weights[t] * pixel[3 * t];
      sum1 += weights[t] * pixel[3 * t + 1];
      sum2 += weights[t] * pixel[3 * t + 2];
    }
    out[0] = static_cast<uint8_t>(sum0 >> 22);
    out[1] = static_cast<uint8_t>(sum1 >> 22);
    out[2] = static_cast<uint8_t>(sum2 >> 22);
  }
}

INSTSEG_CLONES_NO_FMA void filter_row(const uint8_t* in, const FilterAxis& axis, int64_t width,
                                      uint8_t* out) {
  if (axis.taps == 2) {
    filter_pixels<2>(in, axis, width, out);
  } else {
    filter_pixels<0>(in, axis, width, out);
  }
}

// out[i] = sum over t of weights[t] * in[t * stride + i].
INSTSEG_CLONES_NO_FMA void mix_rows(const uint8_t* in, int64_t stride, const int32_t* weights, int64_t taps,
                                    int64_t size, uint8_t* out) {
  int32_t sums[kChunk];
  for (int64_t begin = 0; begin < size; begin += kChunk) {
    const int64_t count = std::min(kChunk, size - begin);
    for (int64_t i = 0; i < count; ++i) sums[i] = kHalf;
    for (int64_t t = 0; t < taps; ++t) {
      const uint8_t* row = in + t * stride + begin;
      const int32_t weight = weights[t];
      if (weight == 0) continue;
      for (int64_t i = 0; i < count; ++i) sums[i] += weight * row[i];
    }
    for (int64_t i = 0; i < count; ++i) out[begin + i] = static_cast<uint8_t>(sums[i] >> 22);
  }
}

INSTSEG_CLONES_NO_FMA void opencv_row(const uint8_t* in, const LinearTap<int32_t>* taps, int64_t width,
                                      int16_t* out) {
  for (int64_t x = 0; x < width; ++x) {
    const LinearTap<int32_t> tap = taps[x];
    for (int64_t c = 0; c < 3; ++c) {
      const int32_t sum = tap.weight0 * in[3 * tap.index0 + c] + tap.weight1 * in[3 * tap.index1 + c];
      out[3 * x + c] = static_cast<int16_t>(sum >> 4);  // at most 255 * 2048 / 16
    }
  }
}

INSTSEG_CLONES_NO_FMA void opencv_mix(const int16_t* row0, const int16_t* row1, const LinearTap<int32_t>& tap,
                                      int64_t size, uint8_t* out) {
  const int32_t weight0 = tap.weight0, weight1 = tap.weight1;
  for (int64_t i = 0; i < size; ++i) {
    out[i] = static_cast<uint8_t>((((weight0 * row0[i]) >> 16) + ((weight1 * row1[i]) >> 16) + 2) >> 2);
  }
}

}  // namespace

void resize_pillow(const uint8_t* in, const ResizeShape& shape, uint8_t* out) {
  const int64_t in_row = 3 * shape.in_width, out_row = 3 * shape.out_width;
  const bool columns = shape.in_width != shape.out_width, rows = shape.in_height != shape.out_height;
  if (!columns && !rows) {
    std::memcpy(out, in, shape.in_height * in_row);
    return;
  }
  std::unique_ptr<uint8_t[]> between;
  const uint8_t* mixed = in;  // input of the pass over rows
  if (columns) {
    uint8_t* target = out;
    if (rows) {
      between.reset(new uint8_t[shape.in_height * out_row]);
      target = between.get();
    }
    const FilterAxis axis = pillow_axis(shape.in_width, shape.out_width);
    at::parallel_for(0, shape.in_height, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        filter_row(in + y * in_row, axis, shape.out_width, target + y * out_row);
      }
    });
    mixed = target;
  }
  if (!rows) return;
  const FilterAxis axis = pillow_axis(shape.in_height, shape.out_height);
  at::parallel_for(0, shape.out_height, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      mix_rows(mixed + axis.start[y] * out_row, out_row, axis.weights.data() + y * axis.taps, axis.taps,
               out_row, out + y * out_row);
    }
  });
}

void resize_opencv(const uint8_t* in, const ResizeShape& shape, uint8_t* out) {
  const int64_t in_row = 3 * shape.in_width, out_row = 3 * shape.out_width;
  const auto columns = opencv_axis(shape.in_width, shape.out_width);
  const auto rows = opencv_axis(shape.in_height, shape.out_height);
  const std::unique_ptr<int16_t[]> between(new int16_t[shape.in_height * out_row]);
  at::parallel_for(0, shape.in_height, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      opencv_row(in + y * in_row, columns.data(), shape.out_width, between.get() + y * out_row);
    }
  });
  at::parallel_for(0, shape.out_height, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      opencv_mix(between.get() + rows[y].index0 * out_row, between.get() + rows[y].index1 * out_row, rows[y],
                 out_row, out + y * out_row);
    }
  });
}

void resize_float(const uint8_t* in, const ResizeShape& shape, float* out) {
  const int64_t in_row = 3 * shape.in_width, out_row = 3 * shape.out_width;
  const auto columns = float_axis(shape.in_width, shape.out_width);
  const auto rows = float_axis(shape.in_height, shape.out_height);
  const std::unique_ptr<float[]> between(new float[shape.in_height * out_row]);
  at::parallel_for(0, shape.in_height, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      const uint8_t* row = in + y * in_row;
      float* target = between.get() + y * out_row;
      for (int64_t x = 0; x < shape.out_width; ++x) {
        const LinearTap<float> tap = columns[x];
        for (int64_t c = 0; c < 3; ++c) {
          target[3 * x + c] = tap.weight0 * static_cast<float>(row[3 * tap.index0 + c]) +
                              tap.weight1 * static_cast<float>(row[3 * tap.index1 + c]);
        }
      }
    }
  });
  at::parallel_for(0, shape.out_height, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      const float* row0 = between.get() + rows[y].index0 * out_row;
      const float* row1 = between.get() + rows[y].index1 * out_row;
      const float weight0 = rows[y].weight0, weight1 = rows[y].weight1;
      for (int64_t i = 0; i < out_row; ++i) out[y * out_row + i] = weight0 * row0[i] + weight1 * row1[i];
    }
  });
}

void resize_nearest(const uint8_t* in, const ResizeShape& shape, const int32_t* rows, const int32_t* columns,
                    uint8_t* out) {
  const int64_t channels = shape.channels, row_size = shape.out_width * channels;
  at::parallel_for(0, shape.out_height, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      const uint8_t* row = in + rows[y] * shape.in_width * channels;
      for (int64_t x = 0; x < shape.out_width; ++x) {
        for (int64_t c = 0; c < channels; ++c)
          out[y * row_size + x * channels + c] = row[columns[x] * channels + c];
      }
    }
  });
}

}  // namespace instseg::kernels
