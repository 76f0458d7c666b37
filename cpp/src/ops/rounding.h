// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <limits>

namespace instseg {

/** The largest float32 not above `threshold`: comparing a float with it gives what comparing with the double
 * does. */
inline float round_down(double threshold) {
  const auto rounded = static_cast<float>(threshold);
  if (static_cast<double>(rounded) <= threshold) return rounded;
  return std::nextafter(rounded, -std::numeric_limits<float>::infinity());
}

}  // namespace instseg
