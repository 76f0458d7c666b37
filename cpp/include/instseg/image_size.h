// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace instseg {

/** Height and width in pixels. */
struct ImageSize {
  int64_t height = 0;
  int64_t width = 0;
  bool operator==(const ImageSize&) const = default;
};

}  // namespace instseg
