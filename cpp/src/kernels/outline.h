// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace instseg::kernels {

/** Corners x0, y0, x1, y1, ... of one closed outline. */
using Outline = std::vector<int64_t>;

/**
 * Outer outlines, along pixel edges, of the parts of a bitmap [height, width] (anything but 0 is inside) that
 * hang together by edges: clockwise as seen on a screen, each from its first pixel in reading order; corners
 * only. Holes are left out.
 */
std::vector<Outline> outlines(const uint8_t* bitmap, int64_t height, int64_t width);

}  // namespace instseg::kernels
