// SPDX-License-Identifier: Apache-2.0
#include "kernels/focal_loss.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu_scalar.h"
#include "kernels/fast_math.h"
#include "kernels/isa.h"

// With z = logit for the background and -logit for the positive class, an entry's loss is
// weight * s^gamma * softplus(z), s = sigmoid(z); its derivative by z is weight * s^gamma * (gamma (1-s)
// softplus(z) + s).
namespace instseg::kernels {
namespace {

constexpr int64_t kBlock = 512;  // entries whose terms are in the cache together

// log(1 + e) for 0 <= e <= 1 as 2 atanh(e / (2 + e)).
[[gnu::always_inline]] inline float log1p_unit(float e) {
  const float s = e / (2.0f + e);
  const float q = s * s;
  float p = 1.0f / 15;
  p = p * q + 1.0f / 13;
  p = p * q + 1.0f / 11;
  p = p * q + 1.0f / 9;
  p = p * q + 1.0f / 7;
  p = p * q + 1.0f / 5;
  p = p * q + 1.0f / 3;
  return 2.0f * s + 2.0f * s * q * p;
}

struct Terms {
  float sigmoid;     // of z
  float complement;  // 1 - sigmoid, exact for large z
  float softplus;    // of z
  float power;       // sigmoid ^ gamma
};

template <bool square>
[[gnu::always_inline]] inline Terms terms(float z, float gamma) {
  const float magnitude = z < 0.0f ? -z : z;
  const float e = exp_negative(magnitude);
  const float large = 1.0f / (1.0f + e);
  const float small = e * large;
  const float log_term = log1p_unit(e);
  Terms t;
  t.sigmoid = z < 0.0f ? small : large;
  t.complement = z < 0.0f ? large : small;
  t.softplus = (z < 0.0f ? 0.0f : z) + log_term;  // written so that NaN stays NaN
  if constexpr (square) {
    t.power = t.sigmoid * t.sigmoid;
  } else {
    t.power = exp_negative(gamma * ((z < 0.0f ? -z : 0.0f) + log_term));  // -log sigmoid(z) = softplus(-z)
  }
  return t;
}

template <bool square>
[[gnu::always_inline]] inline float loss_at(float z, float gamma) {
  const Terms t = terms<square>(z, gamma);
  return t.power * t.softplus;
}

template <bool square>
[[gnu::always_inline]] inline float slope_at(float z, float gamma) {
  const Terms t = terms<square>(z, gamma);
  return t.power * (gamma * t.complement * t.softplus + t.sigmoid);
}

}  // namespace

// Each entry as background; values replaced in place.
INSTSEG_CLONES void focal_block(float* __restrict values, int64_t n, float weight, float gamma) {
  if (gamma == 2.0f) {
    for (int64_t i = 0; i < n; ++i) values[i] = weight * loss_at<true>(values[i], 2.0f);
  } else {
    for (int64_t i = 0; i < n; ++i) values[i] = weight * loss_at<false>(values[i], gamma);
  }
}

INSTSEG_CLONES void focal_slope_block(float* __restrict values, int64_t n, float weight, float gamma) {
  if (gamma == 2.0f) {
    for (int64_t i = 0; i < n; ++i) values[i] = weight * slope_at<true>(values[i], 2.0f);
  } else {
    for (int64_t i = 0; i < n; ++i) values[i] = weight * slope_at<false>(values[i], gamma);
  }
}

// Sixteen running sums let the loop vectorize without reordering it.
INSTSEG_CLONES double sum_block(const float* values, int64_t n) {
  double lanes[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int64_t k = 0; k < 16; ++k) lanes[k] += static_cast<double>(values[i + k]);
  }
  for (int64_t k = 0; i < n; ++i, ++k) lanes[k] += static_cast<double>(values[i]);
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

namespace {

float positive_loss(float logit, FocalParams params) {
  const float value =
      params.gamma == 2.0f ? loss_at<true>(-logit, 2.0f) : loss_at<false>(-logit, params.gamma);
  return params.alpha * value;
}

float positive_slope(float logit, FocalParams params) {
  const float slope =
      params.gamma == 2.0f ? slope_at<true>(-logit, 2.0f) : slope_at<false>(-logit, params.gamma);
  return -params.alpha * slope;
}

// Calls block(first row, rows, values) with the logits of whole rows as float.
template <class T, class Block>
void for_blocks(const T* logits, int64_t begin, int64_t end, int64_t classes, const Block& block) {
  const int64_t step = std::max<int64_t>(1, kBlock / classes);
  std::vector<float> values(step * classes);
  for (int64_t row = begin; row < end; row += step) {
    const int64_t rows = std::min(step, end - row);
    const T* source = logits + row * classes;
    for (int64_t i = 0; i < rows * classes; ++i) values[i] = static_cast<float>(source[i]);
    block(row, rows, values.data());
  }
}

template <class T>
double loss_sum(const T* logits, const int64_t* labels, int64_t begin, int64_t end, int64_t classes,
                FocalParams params) {
  double sum = 0;
  for_blocks(logits, begin, end, classes, [&](int64_t row, int64_t rows, float* values) {
    focal_block(values, rows * classes, 1.0f - params.alpha, params.gamma);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t label = labels[row + r];
      if (label < 0 || label >= classes) continue;
      values[r * classes + label] =
          positive_loss(static_cast<float>(logits[(row + r) * classes + label]), params);
    }
    sum += sum_block(values, rows * classes);
  });
  return sum;
}

template <class T>
void loss_grad(const T* logits, const int64_t* labels, int64_t begin, int64_t end, int64_t classes,
               FocalParams params, float scale, T* grad) {
  for_blocks(logits, begin, end, classes, [&](int64_t row, int64_t rows, float* values) {
    focal_slope_block(values, rows * classes, (1.0f - params.alpha) * scale, params.gamma);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t label = labels[row + r];
      if (label < 0 || label >= classes) continue;
      values[r * classes + label] =
          scale * positive_slope(static_cast<float>(logits[(row + r) * classes + label]), params);
    }
    T* target = grad + row * classes;
    for (int64_t i = 0; i < rows * classes; ++i) target[i] = static_cast<T>(values[i]);
  });
}

}  // namespace

double focal_loss_cpu(const void* logits, ScalarKind kind, const int64_t* labels, int64_t begin, int64_t end,
                      int64_t classes, FocalParams params) {
  return with_scalar(kind, [&]<class T>(T) {
    return loss_sum(static_cast<const T*>(logits), labels, begin, end, classes, params);
  });
}

void focal_loss_backward_cpu(const void* logits, ScalarKind kind, const int64_t* labels, int64_t begin,
                             int64_t end, int64_t classes, FocalParams params, float scale, void* grad) {
  with_scalar(kind, [&]<class T>(T) {
    loss_grad(static_cast<const T*>(logits), labels, begin, end, classes, params, scale,
              static_cast<T*>(grad));
  });
}

}  // namespace instseg::kernels
