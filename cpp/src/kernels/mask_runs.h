// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace instseg::kernels {

/** Pixels begin..end-1 of a mask, counted down the columns from left to right: (x, y) is x * height + y. */
struct Run {
  int64_t begin, end;
};

/** A mask: ascending runs that neither overlap nor touch. */
using Runs = std::vector<Run>;

/**
 * Runs of one closed polygon x0, y0, x1, y1, ... of `points` points (px, continuous) on a canvas by the rule
 * of the COCO API: the outline is traced over pixels a fifth as large, every second of its column changes in
 * the middle of a column toggles the pixels from there on. `toggles` is scratch memory.
 */
Runs polygon_runs(const double* xy, int64_t points, int64_t height, int64_t width,
                  std::vector<int64_t>& toggles);

/** Union of runs in any order. */
void unite(Runs& runs);

/** Runs of COCO's run lengths, zeros first, and the reverse for a mask of `pixels` pixels. */
Runs runs_of_counts(const uint32_t* counts, size_t size);
std::vector<uint32_t> counts_of_runs(const Runs& runs, int64_t pixels);

/** The same mask on a canvas that is higher, at its top. */
Runs raised_runs(const Runs& runs, int64_t height, int64_t new_height);

/** The mirrored mask: column x becomes width - 1 - x. */
Runs flipped_runs(const Runs& runs, int64_t height, int64_t width);

/** out[y, x] = in[rows[y], columns[x]] with ascending tables, as resize_nearest. */
Runs resized_runs(const Runs& runs, int64_t height, const std::vector<int32_t>& rows,
                  const std::vector<int32_t>& columns);

/** The part of the mask in rows y0.. and columns x0.. of an image of new_height x new_width inside the old.
 */
Runs cropped_runs(const Runs& runs, int64_t height, int64_t y0, int64_t x0, int64_t new_height,
                  int64_t new_width);

/** Sums over the pixels of a mask. */
struct Moments {
  int64_t area = 0, x = 0, y = 0;
};
Moments moments(const Runs& runs, int64_t height);

/** Pixels offset, offset + stride, ... of an axis of `size` pixels. */
int64_t sampled_size(int64_t size, int64_t stride, int64_t offset);

/** Writes `value` where the mask covers the pixel (offset + i * stride, offset + j * stride), to out[i, j];
 * out has sampled_size(width) columns. */
template <class T>
void paint_sampled(const Runs& runs, int64_t height, int64_t width, int64_t stride, int64_t offset, T value,
                   T* out);

/** Calls piece(x, y0, y1) for the part y0..y1-1 of every column x of the mask, from left to right. */
template <class Piece>
void for_each_piece(const Runs& runs, int64_t height, const Piece& piece) {
  for (const Run& run : runs) {
    int64_t x = run.begin / height;
    for (int64_t at = run.begin; at < run.end; ++x) {
      const int64_t column = x * height, end = run.end < column + height ? run.end : column + height;
      piece(x, at - column, end - column);
      at = end;
    }
  }
}

}  // namespace instseg::kernels
