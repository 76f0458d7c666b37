// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

// Run lengths as instseg/rle.h has them: down the columns of an image of `height` rows, zeros first.
namespace instseg::kernels {

/** Pixels [x, x + width) x [y, y + height). */
struct PixelBox {
  int64_t x = 0, y = 0, width = 0, height = 0;
};

/** The smallest box around the ones; without extent when there are none. */
PixelBox tight_box(const std::vector<uint32_t>& counts, int64_t height);

/** bitmap [window.height, window.width] = 1 inside, 0 outside; no one lies outside the window. */
void fill_runs(const std::vector<uint32_t>& counts, int64_t height, const PixelBox& window, uint8_t* bitmap);

}  // namespace instseg::kernels
