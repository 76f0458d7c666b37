// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/launch.cuh"
#include "kernels/paste.h"

namespace instseg::kernels {
namespace {

/** One mask of a job. The arithmetic is that of the CPU, so that both give the same pixels. */
class Mask {
 public:
  __device__ Mask(const PasteJob& job, int64_t index)
      : job_(job), map_(job.values + index * job.height * job.width), box_(job.boxes != nullptr) {
    if (!box_) return;
    const float* box = job.boxes + 4 * index;
    x_ = box_axis(box[0], box[2], job.width, job.out_width);
    y_ = box_axis(box[1], box[3], job.height, job.out_height);
  }

  /** Columns and rows outside these ranges are outside the mask. */
  __device__ bool has_column(int64_t x) const { return !box_ || (x >= x_.begin && x < x_.end); }
  __device__ bool has_row(int64_t y) const { return !box_ || (y >= y_.begin && y < y_.end); }
  __device__ int64_t first_row() const { return box_ ? y_.begin : 0; }
  __device__ int64_t end_row() const { return box_ ? y_.end : job_.out_height; }

  __device__ PasteTap column_tap(int64_t x) const { return box_ ? box_tap(x_, x) : job_.x[x]; }
  __device__ PasteTap row_tap(int64_t y) const { return box_ ? box_tap(y_, y) : job_.y[y]; }

  /** Row line `line`, mixed along x. */
  __device__ float row_value(int64_t line, const PasteTap& x) const {
    const float a = cell(line, x.start), b = cell(line, x.start + 1);
    if (job_.lines_per_tap == 2) return paste_mix(a, b, x.second);
    return paste_mix(a, b, cell(line, x.start + 2), x.second, x.third);
  }

  /** Whether a pixel is inside, of the rows a tap mixes. */
  __device__ bool inside(const float* rows, const PasteTap& y) const {
    const float value = job_.lines_per_tap == 2 ? paste_mix(rows[0], rows[1], y.second)
                                                : paste_mix(rows[0], rows[1], rows[2], y.second, y.third);
    return value > job_.limit;
  }

  __device__ bool pixel(int64_t y, int64_t x) const {
    if (!has_column(x) || !has_row(y)) return false;
    const PasteTap across = column_tap(x), down = row_tap(y);
    float rows[3] = {};
    for (int i = 0; i < job_.lines_per_tap; ++i) rows[i] = row_value(down.start + i, across);
    return inside(rows, down);
  }

 private:
  __device__ float cell(int64_t y, int64_t x) const {
    if (!box_) {
      const int64_t row = y < job_.height ? y : job_.height - 1, column = x < job_.width ? x : job_.width - 1;
      return map_[row * job_.width + column];
    }
    const bool zero = y < 1 || y > job_.height || x < 1 || x > job_.width;
    return zero ? 0.0f : map_[(y - 1) * job_.width + x - 1];
  }

  const PasteJob& job_;
  const float* map_;
  bool box_;
  BoxAxis x_ = {}, y_ = {};
};

/** The rows of one column that neighbouring pixels share: read again only when the tap moves on. */
class ColumnReader {
 public:
  __device__ ColumnReader(const Mask& mask, int lines, int64_t x)
      : mask_(mask), lines_(lines), across_(mask.column_tap(x)) {}

  __device__ bool inside(int64_t y) {
    const PasteTap down = mask_.row_tap(y);
    if (down.start != start_) {
      for (int i = 0; i < lines_; ++i) rows_[i] = mask_.row_value(down.start + i, across_);
      start_ = down.start;
    }
    return mask_.inside(rows_, down);
  }

 private:
  const Mask& mask_;
  int lines_;
  PasteTap across_;
  int32_t start_ = -1;
  float rows_[3] = {};
};

/** Calls change(y) where pixel (y, x) differs from the one before it, down the columns from left to right. */
template <class Change>
__device__ void for_changes(const PasteJob& job, int64_t index, int64_t x, const Change& change) {
  const Mask mask(job, index);
  bool before = x > 0 && mask.pixel(job.out_height - 1, x - 1);
  if (!mask.has_column(x)) {
    if (before) change(int64_t{0});
    return;
  }
  const int64_t first = mask.first_row(), end = mask.end_row();
  if (before && first > 0) {
    change(int64_t{0});
    before = false;
  }
  ColumnReader reader(mask, job.lines_per_tap, x);
  for (int64_t y = first; y < end; ++y) {
    const bool now = reader.inside(y);
    if (now != before) change(y);
    before = now;
  }
  if (before && end < job.out_height) change(end);
}

// threadIdx.x runs along x: neighbouring threads read neighbouring cells.
__global__ void write_bitmaps(PasteJob job, uint8_t* __restrict__ bitmaps) {
  const int64_t x = thread_index();
  if (x >= job.out_width) return;
  for (int64_t index = blockIdx.z; index < job.masks; index += gridDim.z) {
    const Mask mask(job, index);
    for (int64_t y = blockIdx.y; y < job.out_height; y += gridDim.y) {
      bitmaps[(index * job.out_height + y) * job.out_width + x] = mask.pixel(y, x) ? 1 : 0;
    }
  }
}

__global__ void count_changes(PasteJob job, int32_t* __restrict__ counts) {
  const int64_t i = thread_index();
  if (i >= job.masks * job.out_width) return;
  int32_t count = 0;
  for_changes(job, i / job.out_width, i % job.out_width, [&](int64_t) { ++count; });
  counts[i] = count;
}

__global__ void write_changes(PasteJob job, const int64_t* __restrict__ ends, uint32_t* __restrict__ places) {
  const int64_t i = thread_index();
  if (i >= job.masks * job.out_width) return;
  const int64_t x = i % job.out_width;
  uint32_t* place = places + (i == 0 ? 0 : ends[i - 1]);
  for_changes(job, i / job.out_width, x,
              [&](int64_t y) { *place++ = static_cast<uint32_t>(x * job.out_height + y); });
}

}  // namespace

void paste_bitmaps_cuda(const PasteJob& job, uint8_t* bitmaps, void* stream) {
  constexpr int64_t most = 65535;  // of a grid's y and z
  const dim3 blocks(blocks_for(job.out_width), static_cast<unsigned>(std::min(job.out_height, most)),
                    static_cast<unsigned>(std::min(job.masks, most)));
  write_bitmaps<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(job, bitmaps);
  check_launch("Masks.bitmaps");
}

void paste_count_cuda(const PasteJob& job, int32_t* counts, void* stream) {
  count_changes<<<blocks_for(job.masks * job.out_width), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      job, counts);
  check_launch("Masks.rle");
}

void paste_places_cuda(const PasteJob& job, const int64_t* ends, uint32_t* places, void* stream) {
  write_changes<<<blocks_for(job.masks * job.out_width), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      job, ends, places);
  check_launch("Masks.rle");
}

}  // namespace instseg::kernels
