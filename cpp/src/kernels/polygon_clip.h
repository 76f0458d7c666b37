// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

namespace instseg::kernels {

/** Closed outlines x0, y0, x1, y1, ... that are filled by the even-odd rule. */
using Rings = std::vector<std::vector<double>>;

/**
 * The parts of a polygon inside 0 <= x <= width, 0 <= y <= height, by the even-odd rule. Every vertex lies on
 * the boundary of the intersection: parts that the border separates become rings of their own.
 */
Rings clipped_polygon(const std::vector<double>& polygon, double width, double height);

}  // namespace instseg::kernels
