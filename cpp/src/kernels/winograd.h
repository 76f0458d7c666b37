// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace instseg::kernels {

/** Winograd F(2x2, 3x3): a tile is 2x2 outputs and the 4x4 inputs around them, which become 16 values. */
constexpr int64_t kWinogradPoints = 16;

/** Maps [images, height, width, channels], channels innermost, cut into tiles: images outermost, then rows.
 */
struct TileGrid {
  int64_t images, height, width, channels;
  int64_t tile_rows() const { return (height + 1) / 2; }
  int64_t tile_columns() const { return (width + 1) / 2; }
  int64_t tiles() const { return images * tile_rows() * tile_columns(); }
};

/** Tiles begin..end-1 (counted from `first`) of a map, to or from values [16, tiles_held, channels]. */
struct TileRange {
  int64_t first, begin, end, tiles_held;
};

/** values = B^T d B of the 4x4 inputs of each tile; 0 beyond the map. */
void winograd_inputs_cpu(const float* map, const TileGrid& grid, const TileRange& range, float* values);
/** 2x2 outputs of each tile = A^T m A. */
void winograd_outputs_cpu(const float* values, const TileGrid& grid, const TileRange& range, float* map);
/** The adjoint of winograd_outputs_cpu: values = A y A^T of the 2x2 gradients of each tile. */
void winograd_slopes_cpu(const float* map, const TileGrid& grid, const TileRange& range, float* values);

}  // namespace instseg::kernels
