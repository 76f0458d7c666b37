// SPDX-License-Identifier: Apache-2.0
#include "kernels/channel_stats.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

namespace instseg::kernels {
namespace {

constexpr int64_t kRowsPerTask = 512;

}  // namespace

void channel_stats(const float* x, int64_t rows, int64_t channels, float* mean, float* variance) {
  const int64_t tasks = (rows + kRowsPerTask - 1) / kRowsPerTask;
  std::vector<double> partial(tasks * 2 * channels, 0.0);  // per task: sums, then sums of squares
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      double* sum = partial.data() + task * 2 * channels;
      double* square = sum + channels;
      const int64_t last = std::min(rows, (task + 1) * kRowsPerTask);
      for (int64_t row = task * kRowsPerTask; row < last; ++row) {
        const float* values = x + row * channels;
        for (int64_t c = 0; c < channels; ++c) {
          const double v = values[c];
          sum[c] += v;
          square[c] += v * v;
        }
      }
    }
  });
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0, square = 0;
    for (int64_t task = 0; task < tasks; ++task) {
      sum += partial[task * 2 * channels + c];
      square += partial[(task * 2 + 1) * channels + c];
    }
    const double center = sum / static_cast<double>(rows);
    mean[c] = static_cast<float>(center);
    variance[c] = static_cast<float>(std::max(square / static_cast<double>(rows) - center * center, 0.0));
  }
}

}  // namespace instseg::kernels
