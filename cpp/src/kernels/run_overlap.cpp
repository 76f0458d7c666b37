// SPDX-License-Identifier: Apache-2.0
#include "kernels/run_overlap.h"

#include <algorithm>

namespace instseg::kernels {
namespace {

// First run of `runs` that ends behind `place`.
Runs::const_iterator run_behind(const Runs& runs, int64_t place) {
  return std::upper_bound(runs.begin(), runs.end(), place,
                          [](int64_t value, const Run& run) { return value < run.end; });
}

}  // namespace

PixelBox box_of_runs(const Runs& runs, int64_t height) {
  if (runs.empty()) return {};
  const int64_t left = runs.front().begin / height, right = (runs.back().end - 1) / height;
  int64_t top = height, bottom = -1;
  for (const Run& run : runs) {
    const int64_t y = run.begin % height, last = y + (run.end - run.begin) - 1;
    if (last >= height) return {left, 0, right - left + 1, height};  // passes the end of a column
    top = std::min(top, y);
    bottom = std::max(bottom, last);
  }
  return {left, top, right - left + 1, bottom - top + 1};
}

bool boxes_meet(const PixelBox& a, const PixelBox& b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

int64_t area_of_runs(const Runs& runs) {
  int64_t sum = 0;
  for (const Run& run : runs) sum += run.end - run.begin;
  return sum;
}

int64_t shared_pixels(const Runs& a, const Runs& b) {
  if (a.empty() || b.empty()) return 0;
  auto i = run_behind(a, b.front().begin), j = run_behind(b, a.front().begin);
  int64_t sum = 0;
  while (i != a.end() && j != b.end()) {
    sum += std::max<int64_t>(0, std::min(i->end, j->end) - std::max(i->begin, j->begin));
    const bool first = i->end < j->end;
    i += first;
    j += !first;
  }
  return sum;
}

}  // namespace instseg::kernels
