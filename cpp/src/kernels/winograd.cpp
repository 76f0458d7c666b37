// SPDX-License-Identifier: Apache-2.0
#include "kernels/winograd.h"

#include <vector>

#include "kernels/isa.h"

namespace instseg::kernels {
namespace {

constexpr int kPoints = static_cast<int>(kWinogradPoints);

/** Where a tile's rows and columns begin: outputs at (2 row, 2 column), inputs one up and left of them. */
struct Tile {
  int64_t image, row, column;
};

Tile tile_at(const TileGrid& grid, int64_t index) {
  const int64_t columns = grid.tile_columns(), rows = grid.tile_rows();
  return {index / (rows * columns), index / columns % rows, index % columns};
}

int64_t offset_of(const TileGrid& grid, int64_t image, int64_t y, int64_t x) {
  return ((image * grid.height + y) * grid.width + x) * grid.channels;
}

bool inside(const TileGrid& grid, int64_t y, int64_t x) {
  return y >= 0 && y < grid.height && x >= 0 && x < grid.width;
}

}  // namespace

// in: 16 rows of `n` floats, out: 16 rows at distance `stride`.
INSTSEG_CLONES void winograd_input_tile(const float* const* in, int64_t n, int64_t stride,
                                        float* __restrict out) {
  const float* d[kPoints];
  for (int k = 0; k < kPoints; ++k) d[k] = in[k];
  INSTSEG_INDEPENDENT
  for (int64_t c = 0; c < n; ++c) {
    float t[kPoints];
    for (int j = 0; j < 4; ++j) {
      t[j] = d[j][c] - d[8 + j][c];
      t[4 + j] = d[4 + j][c] + d[8 + j][c];
      t[8 + j] = d[8 + j][c] - d[4 + j][c];
      t[12 + j] = d[4 + j][c] - d[12 + j][c];
    }
    for (int i = 0; i < 4; ++i) {
      float* row = out + 4 * i * stride + c;
      row[0] = t[4 * i] - t[4 * i + 2];
      row[stride] = t[4 * i + 1] + t[4 * i + 2];
      row[2 * stride] = t[4 * i + 2] - t[4 * i + 1];
      row[3 * stride] = t[4 * i + 1] - t[4 * i + 3];
    }
  }
}

// in: 16 rows at distance `stride`; out: 4 rows, those beyond the map lie in scratch memory.
INSTSEG_CLONES void winograd_output_tile(const float* __restrict in, int64_t n, int64_t stride,
                                         float* const* out) {
  float *y0 = out[0], *y1 = out[1], *y2 = out[2], *y3 = out[3];
  INSTSEG_INDEPENDENT
  for (int64_t c = 0; c < n; ++c) {
    float s[8];
    for (int j = 0; j < 4; ++j) {
      const float m0 = in[j * stride + c], m1 = in[(4 + j) * stride + c];
      const float m2 = in[(8 + j) * stride + c], m3 = in[(12 + j) * stride + c];
      s[j] = m0 + m1 + m2;
      s[4 + j] = m1 - m2 - m3;
    }
    y0[c] = s[0] + s[1] + s[2];
    y1[c] = s[1] - s[2] - s[3];
    y2[c] = s[4] + s[5] + s[6];
    y3[c] = s[5] - s[6] - s[7];
  }
}

// in: 4 rows, out: 16 rows at distance `stride`.
INSTSEG_CLONES void winograd_slope_tile(const float* const* in, int64_t n, int64_t stride,
                                        float* __restrict out) {
  const float *y0 = in[0], *y1 = in[1], *y2 = in[2], *y3 = in[3];
  INSTSEG_INDEPENDENT
  for (int64_t c = 0; c < n; ++c) {
    const float left[4] = {y0[c], y0[c] + y2[c], y0[c] - y2[c], -y2[c]};
    const float right[4] = {y1[c], y1[c] + y3[c], y1[c] - y3[c], -y3[c]};
    for (int i = 0; i < 4; ++i) {
      float* row = out + 4 * i * stride + c;
      row[0] = left[i];
      row[stride] = left[i] + right[i];
      row[2 * stride] = left[i] - right[i];
      row[3 * stride] = -right[i];
    }
  }
}

void winograd_inputs_cpu(const float* map, const TileGrid& grid, const TileRange& range, float* values) {
  const std::vector<float> zeros(grid.channels);
  const int64_t stride = range.tiles_held * grid.channels;
  for (int64_t t = range.begin; t < range.end; ++t) {
    const Tile tile = tile_at(grid, range.first + t);
    const float* in[kPoints];
    for (int k = 0; k < kPoints; ++k) {
      const int64_t y = 2 * tile.row - 1 + k / 4, x = 2 * tile.column - 1 + k % 4;
      in[k] = inside(grid, y, x) ? map + offset_of(grid, tile.image, y, x) : zeros.data();
    }
    winograd_input_tile(in, grid.channels, stride, values + t * grid.channels);
  }
}

void winograd_outputs_cpu(const float* values, const TileGrid& grid, const TileRange& range, float* map) {
  std::vector<float> scratch(4 * grid.channels);
  const int64_t stride = range.tiles_held * grid.channels;
  for (int64_t t = range.begin; t < range.end; ++t) {
    const Tile tile = tile_at(grid, range.first + t);
    float* out[4];
    for (int k = 0; k < 4; ++k) {
      const int64_t y = 2 * tile.row + k / 2, x = 2 * tile.column + k % 2;
      out[k] = inside(grid, y, x) ? map + offset_of(grid, tile.image, y, x) : &scratch[k * grid.channels];
    }
    winograd_output_tile(values + t * grid.channels, grid.channels, stride, out);
  }
}

void winograd_slopes_cpu(const float* map, const TileGrid& grid, const TileRange& range, float* values) {
  const std::vector<float> zeros(grid.channels);
  const int64_t stride = range.tiles_held * grid.channels;
  for (int64_t t = range.begin; t < range.end; ++t) {
    const Tile tile = tile_at(grid, range.first + t);
    const float* in[4];
    for (int k = 0; k < 4; ++k) {
      const int64_t y = 2 * tile.row + k / 2, x = 2 * tile.column + k % 2;
      in[k] = inside(grid, y, x) ? map + offset_of(grid, tile.image, y, x) : zeros.data();
    }
    winograd_slope_tile(in, grid.channels, stride, values + t * grid.channels);
  }
}

}  // namespace instseg::kernels
