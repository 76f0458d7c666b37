// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

namespace instseg {

using Color = std::array<uint8_t, 3>;  // RGB

/** Vivid colours, each as far as possible from those before it in CIE Lab, so that few classes differ most.
 */
inline constexpr std::array<Color, 32> kPalette = {{
    // clang-format off
    {255, 60, 60}, {0, 255, 0}, {60, 15, 255}, {0, 195, 255}, {75, 90, 0}, {240, 120, 225},
    {30, 255, 195}, {255, 225, 0}, {0, 120, 255}, {255, 180, 120}, {150, 45, 75}, {30, 165, 30},
    {255, 0, 255}, {195, 225, 135}, {255, 0, 135}, {150, 60, 0}, {105, 75, 150}, {135, 15, 180},
    {30, 150, 105}, {255, 135, 0}, {180, 240, 60}, {180, 150, 15}, {255, 135, 150}, {15, 225, 225},
    {165, 165, 255}, {45, 255, 120}, {165, 0, 120}, {0, 60, 225}, {255, 15, 195}, {0, 120, 195},
    {180, 120, 255}, {135, 165, 0}
    // clang-format on
}};

/** The colour of a label or of an instance's index; numbers that differ by a multiple of the palette's size
 * share one. */
inline const Color& label_color(int64_t label) {
  const auto size = static_cast<int64_t>(kPalette.size());
  return kPalette[((label % size) + size) % size];
}

/** Black or white, whichever reads better on `background`. */
inline Color text_color(const Color& background) {
  const int luma = 299 * background[0] + 587 * background[1] + 114 * background[2];
  return luma > 128'000 ? Color{0, 0, 0} : Color{255, 255, 255};
}

}  // namespace instseg
