// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "kernels/resize.h"

namespace instseg::kernels {

FilterAxis pillow_axis(int64_t in, int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double support = std::max(scale, 1.0);  // of the triangle filter, whose radius is 1
  const double inverse = 1.0 / support;

  std::vector<int64_t> begin(out), end(out);
  FilterAxis axis;
  for (int64_t o = 0; o < out; ++o) {
    const double center = (static_cast<double>(o) + 0.5) * scale;
    begin[o] = std::max<int64_t>(0, static_cast<int64_t>(center - support + 0.5));
    end[o] = std::min(in, static_cast<int64_t>(center + support + 0.5));
    axis.taps = std::max(axis.taps, end[o] - begin[o]);
  }

  axis.start.resize(out);
  axis.weights.assign(out * axis.taps, 0);
  std::vector<double> raw(axis.taps);
  for (int64_t o = 0; o < out; ++o) {
    const double center = (static_cast<double>(o) + 0.5) * scale;
    double sum = 0;
    for (int64_t i = begin[o]; i < end[o]; ++i) {
      const double x = std::abs((static_cast<double>(i) - center + 0.5) * inverse);
      raw[i - begin[o]] = x < 1.0 ? 1.0 - x : 0.0;
      sum += raw[i - begin[o]];
    }
    // Every window has `taps` entries that stay inside the image: surplus entries weigh nothing.
    const int64_t start = std::min(begin[o], in - axis.taps);
    axis.start[o] = static_cast<int32_t>(start);
    int32_t* weights = axis.weights.data() + o * axis.taps + (begin[o] - start);
    for (int64_t t = 0; t < end[o] - begin[o]; ++t) {
      weights[t] = static_cast<int32_t>(0.5 + (sum != 0 ? raw[t] / sum : raw[t]) * (1 << 22));
    }
  }
  return axis;
}

std::vector<LinearTap<int32_t>> opencv_axis(int64_t in, int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  std::vector<LinearTap<int32_t>> taps(out);
  for (int64_t o = 0; o < out; ++o) {
    // The coordinate is a float and weights round half to even: closest to what OpenCV returns.
    const auto x = static_cast<float>((static_cast<double>(o) + 0.5) * scale - 0.5);
    int64_t index = static_cast<int64_t>(std::floor(x));
    float fraction = x - static_cast<float>(index);
    if (index < 0 || index >= in - 1) {
      index = index < 0 ? 0 : in - 1;
      fraction = 0;
    }
    taps[o] = {static_cast<int32_t>(index), static_cast<int32_t>(std::min(index + 1, in - 1)),
               static_cast<int32_t>(std::lrint((1 - fraction) * 2048)),
               static_cast<int32_t>(std::lrint(fraction * 2048))};
  }
  return taps;
}

std::vector<LinearTap<float>> float_axis(int64_t in, int64_t out) {
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  std::vector<LinearTap<float>> taps(out);
  for (int64_t o = 0; o < out; ++o) {
    const float x =
        std::max(std::fma(scale, static_cast<float>(o) + 0.5f, -0.5f), 0.f);  // fused in torch's builds
    const int64_t index = std::min(static_cast<int64_t>(x), in - 1);
    const float fraction = std::min(std::max(x - static_cast<float>(index), 0.f), 1.f);
    taps[o] = {static_cast<int32_t>(index), static_cast<int32_t>(std::min(index + 1, in - 1)), 1.f - fraction,
               fraction};
  }
  return taps;
}

std::vector<int32_t> pillow_nearest(int64_t in, int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  std::vector<int32_t> index(out);
  double x = scale * 0.5;
  for (int64_t o = 0; o < out; ++o, x += scale) {  // accumulated, as Pillow does: (o + 0.5) * scale differs
    index[o] = static_cast<int32_t>(std::min(static_cast<int64_t>(x), in - 1));
  }
  return index;
}

std::vector<int32_t> opencv_nearest(int64_t in, int64_t out) {
  const double scale = 1.0 / (static_cast<double>(out) / static_cast<double>(in));  // not in / out: last bit
  std::vector<int32_t> index(out);
  for (int64_t o = 0; o < out; ++o) {
    index[o] = static_cast<int32_t>(
        std::min(static_cast<int64_t>(std::floor(static_cast<double>(o) * scale)), in - 1));
  }
  return index;
}

}  // namespace instseg::kernels
