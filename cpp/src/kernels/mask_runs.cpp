// SPDX-License-Identifier: Apache-2.0
#include "kernels/mask_runs.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace instseg::kernels {
namespace {

// Subpixels per pixel; a column's middle lies between its subpixels 2 and 3.
constexpr int64_t kScale = 5;
constexpr int64_t kMiddle = 2;
// Subpixel coordinates are 32-bit in the COCO API; what lies further out is moved to the limit.
constexpr double kLowest = -2147483648.0, kHighest = 2147483647.0;

struct Point {
  int64_t x, y;
};

int64_t subpixel(double value) {
  return static_cast<int64_t>(std::clamp(static_cast<double>(kScale) * value + 0.5, kLowest, kHighest));
}

int64_t floor_divide(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// Columns whose middle an edge between the subpixels low <= high crosses.
struct Columns {
  int64_t first, last;
  Columns(int64_t low, int64_t high, int64_t width)
      : first(std::max<int64_t>(0, floor_divide(low - kMiddle + kScale - 1, kScale))),
        last(std::min(width - 1, floor_divide(high - kMiddle - 1, kScale))) {}
};

// First row whose middle lies below subpixel y.
int64_t row_below(int64_t y, int64_t height) {
  return y <= kMiddle ? 0 : std::min((y - kMiddle + kScale - 1) / kScale, height);
}

// An edge with a subpixel in every subcolumn: the y of both neighbours of a middle are known at once.
void trace_flat(Point a, Point b, int64_t height, int64_t width, std::vector<int64_t>& toggles) {
  if (a.x > b.x) std::swap(a, b);
  const double slope = static_cast<double>(b.y - a.y) / static_cast<double>(b.x - a.x);
  const auto y_at = [&](int64_t step) {
    return static_cast<int64_t>(static_cast<double>(a.y) + slope * static_cast<double>(step) + 0.5);
  };
  const Columns columns(a.x, b.x, width);
  for (int64_t x = columns.first; x <= columns.last; ++x) {
    const int64_t step = kScale * x + kMiddle - a.x;
    toggles.push_back(x * height + row_below(std::min(y_at(step), y_at(step + 1)), height));
  }
}

// An edge with a subpixel in every subrow: the row where it passes a middle has to be found.
void trace_steep(Point a, Point b, int64_t height, int64_t width, std::vector<int64_t>& toggles) {
  if (a.y > b.y) std::swap(a, b);
  const bool rising = b.x > a.x;
  const int64_t steps = b.y - a.y;
  const double slope = static_cast<double>(b.x - a.x) / static_cast<double>(steps);
  const Columns columns(std::min(a.x, b.x), std::max(a.x, b.x), width);
  for (int64_t x = columns.first; x <= columns.last; ++x) {
    const auto border = static_cast<double>(kScale * x + kMiddle + 1);
    const auto passed = [&](int64_t step) {
      const double at = static_cast<double>(a.x) + slope * static_cast<double>(step) + 0.5;
      return rising ? at >= border : at < border;
    };
    // Solved in real numbers, then moved to where the rounded coordinate itself passes.
    const double guess = (border - 0.5 - static_cast<double>(a.x)) / slope;
    auto step = static_cast<int64_t>(std::clamp(guess, 1.0, static_cast<double>(steps)));
    while (step > 1 && passed(step - 1)) --step;
    while (step < steps && !passed(step)) ++step;
    toggles.push_back(x * height + row_below(a.y + step - 1, height));
  }
}

// Appends a run, joined with the last one when they touch.
void append(Runs& runs, int64_t begin, int64_t end) {
  if (begin >= end) return;
  if (!runs.empty() && begin <= runs.back().end) {
    runs.back().end = std::max(runs.back().end, end);
  } else {
    runs.push_back({begin, end});
  }
}

}  // namespace

Runs polygon_runs(const double* xy, int64_t points, int64_t height, int64_t width,
                  std::vector<int64_t>& toggles) {
  toggles.clear();
  Point previous{subpixel(xy[2 * points - 2]), subpixel(xy[2 * points - 1])};
  for (int64_t i = 0; i < points; ++i) {
    const Point point{subpixel(xy[2 * i]), subpixel(xy[2 * i + 1])};
    const int64_t dx = std::abs(point.x - previous.x), dy = std::abs(point.y - previous.y);
    if (dx > 0 && dx >= dy) trace_flat(previous, point, height, width, toggles);
    if (dx > 0 && dx < dy) trace_steep(previous, point, height, width, toggles);
    previous = point;
  }
  std::sort(toggles.begin(), toggles.end());
  Runs runs;
  for (size_t i = 0; i + 1 < toggles.size(); i += 2) append(runs, toggles[i], toggles[i + 1]);
  return runs;
}

void unite(Runs& runs) {
  std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.begin < b.begin; });
  Runs united;
  united.reserve(runs.size());
  for (const Run& run : runs) append(united, run.begin, run.end);
  runs = std::move(united);
}

Runs runs_of_counts(const uint32_t* counts, size_t size) {
  Runs runs;
  runs.reserve(size / 2);
  int64_t at = 0;
  for (size_t i = 0; i < size; at += counts[i], ++i) {
    if (i % 2 == 1) append(runs, at, at + counts[i]);
  }
  return runs;
}

std::vector<uint32_t> counts_of_runs(const Runs& runs, int64_t pixels) {
  std::vector<uint32_t> counts;
  counts.reserve(2 * runs.size() + 1);
  int64_t at = 0;
  for (const Run& run : runs) {
    counts.push_back(static_cast<uint32_t>(run.begin - at));
    counts.push_back(static_cast<uint32_t>(run.end - run.begin));
    at = run.end;
  }
  if (at < pixels || counts.empty()) counts.push_back(static_cast<uint32_t>(pixels - at));
  return counts;
}

Runs raised_runs(const Runs& runs, int64_t height, int64_t new_height) {
  if (height == new_height) return runs;
  Runs out;
  for_each_piece(runs, height, [&](int64_t x, int64_t y0, int64_t y1) {
    append(out, x * new_height + y0, x * new_height + y1);
  });
  return out;
}

Runs flipped_runs(const Runs& runs, int64_t height, int64_t width) {
  Runs out;
  for_each_piece(runs, height, [&](int64_t x, int64_t y0, int64_t y1) {
    const int64_t column = (width - 1 - x) * height;
    out.push_back({column + y0, column + y1});
  });
  unite(out);
  return out;
}

Runs resized_runs(const Runs& runs, int64_t height, const std::vector<int32_t>& rows,
                  const std::vector<int32_t>& columns) {
  // first_row[y]: the first new row that is taken from row y or below.
  std::vector<int64_t> first_row(height + 1);
  const auto new_height = static_cast<int64_t>(rows.size());
  for (int64_t y = 0, row = 0; y <= height; ++y) {
    while (row < new_height && rows[row] < y) ++row;
    first_row[y] = row;
  }
  std::vector<Run> pieces;                               // y0, y1, of all columns
  std::vector<std::pair<int64_t, size_t>> first_pieces;  // of each column that has any
  for_each_piece(runs, height, [&](int64_t x, int64_t y0, int64_t y1) {
    if (first_pieces.empty() || first_pieces.back().first != x) first_pieces.emplace_back(x, pieces.size());
    pieces.push_back({first_row[y0], first_row[y1]});
  });
  Runs out;
  size_t column = 0;
  for (int64_t x = 0; x < static_cast<int64_t>(columns.size()); ++x) {
    while (column < first_pieces.size() && first_pieces[column].first < columns[x]) ++column;
    if (column == first_pieces.size()) break;
    if (first_pieces[column].first != columns[x]) continue;
    const size_t end = column + 1 < first_pieces.size() ? first_pieces[column + 1].second : pieces.size();
    for (size_t i = first_pieces[column].second; i < end; ++i)
      append(out, x * new_height + pieces[i].begin, x * new_height + pieces[i].end);
  }
  return out;
}

Runs cropped_runs(const Runs& runs, int64_t height, int64_t y0, int64_t x0, int64_t new_height,
                  int64_t new_width) {
  Runs out;
  for_each_piece(runs, height, [&](int64_t x, int64_t top, int64_t bottom) {
    const int64_t begin = std::max<int64_t>(top - y0, 0), end = std::min(bottom - y0, new_height);
    if (x < x0 || x >= x0 + new_width || begin >= end) return;
    append(out, (x - x0) * new_height + begin, (x - x0) * new_height + end);
  });
  return out;
}

Moments moments(const Runs& runs, int64_t height) {
  Moments sum;
  for_each_piece(runs, height, [&](int64_t x, int64_t y0, int64_t y1) {
    sum.area += y1 - y0;
    sum.x += x * (y1 - y0);
    sum.y += (y0 + y1 - 1) * (y1 - y0) / 2;
  });
  return sum;
}

int64_t sampled_size(int64_t size, int64_t stride, int64_t offset) {
  return size > offset ? (size - offset + stride - 1) / stride : 0;
}

template <class T>
void paint_sampled(const Runs& runs, int64_t height, int64_t width, int64_t stride, int64_t offset, T value,
                   T* out) {
  const int64_t columns = sampled_size(width, stride, offset);
  for_each_piece(runs, height, [&](int64_t x, int64_t y0, int64_t y1) {
    if (x < offset || (x - offset) % stride != 0) return;
    const int64_t begin = sampled_size(y0, stride, offset), end = sampled_size(y1, stride, offset);
    T* target = out + begin * columns + (x - offset) / stride;
    for (int64_t i = begin; i < end; ++i, target += columns) *target = value;
  });
}

template void paint_sampled(const Runs&, int64_t, int64_t, int64_t, int64_t, uint8_t, uint8_t*);
template void paint_sampled(const Runs&, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t*);

}  // namespace instseg::kernels
