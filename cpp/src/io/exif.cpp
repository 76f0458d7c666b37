// SPDX-License-Identifier: Apache-2.0
#include "io/image_codec.h"

namespace instseg {
namespace {

constexpr uint32_t kOrientationTag = 0x0112;
constexpr uint32_t kByte = 1, kShort = 3, kLong = 4;  // TIFF field types

// Bounds-checked integers of either byte order; reads beyond the end give 0.
struct TiffReader {
  const uint8_t* data;
  size_t size;
  bool little_endian;

  uint32_t integer(size_t offset, size_t bytes) const {
    if (offset > size || size - offset < bytes) return 0;
    uint32_t value = 0;
    for (size_t i = 0; i < bytes; ++i) {
      value = value << 8 | data[offset + (little_endian ? bytes - 1 - i : i)];
    }
    return value;
  }
};

}  // namespace

int exif_orientation(const uint8_t* tiff, size_t size) {
  if (size < 8 || tiff[0] != tiff[1] || (tiff[0] != 'I' && tiff[0] != 'M')) return 1;
  const TiffReader reader{tiff, size, tiff[0] == 'I'};
  if (reader.integer(2, 2) != 42) return 1;
  const size_t directory = reader.integer(4, 4);
  const uint32_t entries = reader.integer(directory, 2);
  for (uint32_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + 12 * static_cast<size_t>(i);
    if (entry + 12 > size) return 1;
    if (reader.integer(entry, 2) != kOrientationTag) continue;
    const uint32_t type = reader.integer(entry + 2, 2);
    if (type != kByte && type != kShort && type != kLong) return 1;
    const uint32_t value = reader.integer(entry + 8, type == kByte ? 1 : (type == kShort ? 2 : 4));
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

}  // namespace instseg
