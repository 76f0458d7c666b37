// SPDX-License-Identifier: Apache-2.0
#include "kernels/runs.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/isa.h"

namespace instseg::kernels {

INSTSEG_CLONES void add_row_parity(const uint8_t* __restrict above, uint8_t* __restrict row, int64_t n) {
  for (int64_t i = 0; i < n; ++i) row[i] ^= above[i];
}

PixelBox tight_box(const std::vector<uint32_t>& counts, int64_t height) {
  constexpr int64_t far = std::numeric_limits<int64_t>::max();
  int64_t left = far, right = -1, top = far, bottom = -1, place = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const int64_t begin = place;
    place += counts[i];
    if (i % 2 == 0 || counts[i] == 0) continue;
    const int64_t x0 = begin / height, x1 = (place - 1) / height;
    left = std::min(left, x0);
    right = std::max(right, x1);
    top = x0 == x1 ? std::min(top, begin - x0 * height) : 0;  // a run into the next column passes both ends
    bottom = x0 == x1 ? std::max(bottom, place - 1 - x1 * height) : height - 1;
  }
  if (right < 0) return {};
  return {left, top, right - left + 1, bottom - top + 1};
}

void fill_runs(const std::vector<uint32_t>& counts, int64_t height, const PixelBox& window, uint8_t* bitmap) {
  if (window.width == 0 || window.height == 0) return;
  std::memset(bitmap, 0, static_cast<size_t>(window.width * window.height));
  const int64_t stride = window.width;
  int64_t left = stride, right = 0, top = window.height, end = 0, place = 0;
  const auto flip = [&](int64_t x, int64_t y) {
    end = std::max(end, y);
    if (y == window.height) return;
    bitmap[y * stride + x] ^= 1;
    top = std::min(top, y);
  };
  // Marks where each column changes, then carries the parity down the rows.
  for (size_t i = 0; i < counts.size(); ++i) {
    const int64_t begin = place;
    place += counts[i];
    if (i % 2 == 0 || counts[i] == 0) continue;
    int64_t x = begin / height, y = begin - x * height, rest = counts[i];
    left = std::min(left, x - window.x);
    for (; rest > 0; ++x, y = 0) {
      const int64_t part = std::min(rest, height - y);
      flip(x - window.x, y - window.y);
      flip(x - window.x, y + part - window.y);
      rest -= part;
    }
    right = std::max(right, x - window.x);
  }
  for (int64_t row = top + 1; row < std::min(end + 1, window.height); ++row) {
    add_row_parity(bitmap + (row - 1) * stride + left, bitmap + row * stride + left, right - left);
  }
}

}  // namespace instseg::kernels
