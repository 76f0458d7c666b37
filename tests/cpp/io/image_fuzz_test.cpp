// SPDX-License-Identifier: Apache-2.0
// Mutated images: decode_image must return or throw instseg::Error. Meant to run under the sanitizers as
// well.
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "instseg/error.h"
#include "instseg/image.h"
#include "io/image_codec.h"

namespace instseg {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr int64_t kPixelLimit = 1 << 16;  // keeps mutated sizes cheap
constexpr int kMutations = 2000;          // of each seed

at::Tensor noise(int64_t height, int64_t width, std::mt19937& random) {
  at::Tensor image = at::empty({height, width, 3}, at::kByte);
  auto* pixels = image.mutable_data_ptr<uint8_t>();
  for (int64_t i = 0; i < image.numel(); ++i) pixels[i] = static_cast<uint8_t>(random());
  return image;
}

void append_integer(Bytes& bytes, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<uint8_t>(value >> shift));
}

uint32_t crc32(const uint8_t* bytes, size_t size) {
  uint32_t crc = ~uint32_t{0};
  for (size_t i = 0; i < size; ++i) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0xedb88320 : crc >> 1;
  }
  return ~crc;
}

void append_chunk(Bytes& png, const char* name, const Bytes& data) {
  append_integer(png, static_cast<uint32_t>(data.size()));
  const size_t start = png.size();
  png.insert(png.end(), name, name + 4);
  png.insert(png.end(), data.begin(), data.end());
  append_integer(png, crc32(png.data() + start, png.size() - start));
}

// A PNG of any kind, with an orientation and a palette; the content is zeros.
Bytes make_png(uint8_t depth, uint8_t color, uint8_t interlace) {
  Bytes png = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  append_chunk(png, "IHDR", {0, 0, 0, 9, 0, 0, 0, 7, depth, color, 0, 0, interlace});
  append_chunk(png, "eXIf",
               {'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0});
  if (color == 3) append_chunk(png, "PLTE", {1, 2, 3, 4, 5, 6});
  if (color == 3) append_chunk(png, "tRNS", {0});
  // One stored deflate block of zeros, more than any kind needs; their Adler-32 sum has a closed form.
  constexpr uint16_t kSize = 700;
  Bytes packed = {0x78, 0x01, 0x01, kSize & 255, kSize >> 8, ~kSize & 255, 255 - (kSize >> 8)};
  packed.resize(packed.size() + kSize, 0);
  append_integer(packed, uint32_t{kSize} << 16 | 1);
  append_chunk(png, "IDAT", packed);
  append_chunk(png, "IEND", {});
  return png;
}

// Checksums of a mutated PNG made right again, so that the mutation reaches the decoder.
void repair_checksums(Bytes& png) {
  for (size_t at = 8; at + 12 <= png.size();) {
    const uint32_t size = uint32_t{png[at]} << 24 | png[at + 1] << 16 | png[at + 2] << 8 | png[at + 3];
    if (size > png.size() - at - 12) return;
    Bytes sum;
    append_integer(sum, crc32(png.data() + at + 4, size + 4));
    std::copy(sum.begin(), sum.end(), png.begin() + static_cast<int64_t>(at + 8 + size));
    at += 12 + size;
  }
}

// An EXIF block behind the start of a JPEG.
Bytes with_exif(const Bytes& jpeg) {
  const Bytes exif = {0xff, 0xe1, 0,    34,   'E', 'x', 'i', 'f', 0, 0, 'I', 'I', 42, 0, 8, 0, 0, 0,
                      1,    0,    0x12, 0x01, 3,   0,   1,   0,   0, 0, 8,   0,   0,  0, 0, 0, 0, 0};
  Bytes result = jpeg;
  result.insert(result.begin() + 2, exif.begin(), exif.end());
  return result;
}

void mutate(Bytes& bytes, std::mt19937& random) {
  static constexpr uint8_t kInteresting[] = {0,    1,    0x7f, 0x80, 0xc0, 0xc2,
                                             0xc4, 0xd8, 0xd9, 0xda, 0xdb, 0xff};
  const int count = 1 + static_cast<int>(random() % 4);
  for (int i = 0; i < count && bytes.size() > 8; ++i) {
    // Half of the mutations hit the headers, which are a small part of the file.
    const size_t reach = random() % 2 ? std::min<size_t>(bytes.size(), 200) : bytes.size();
    const size_t at = 2 + random() % (reach - 2);
    const auto place = bytes.begin() + static_cast<int64_t>(at);
    switch (random() % 5) {
      case 0:
        *place = static_cast<uint8_t>(random());
        break;
      case 1:
        *place = kInteresting[random() % std::size(kInteresting)];
        break;
      case 2:
        *place = static_cast<uint8_t>(*place ^ (1 << random() % 8));
        break;
      case 3:
        bytes.erase(place, place + static_cast<int64_t>(std::min<size_t>(random() % 8, bytes.size() - at)));
        break;
      default:
        bytes.insert(place, random() % 8, static_cast<uint8_t>(random()));
        break;
    }
  }
}

// Decodes; returns whether it was an image.
bool survives(const Bytes& bytes) {
  try {
    const at::Tensor image = decode_image(bytes.data(), bytes.size(), "mutant", kPixelLimit);
    EXPECT_EQ(image.dim(), 3);
    EXPECT_LE(image.numel(), 3 * kPixelLimit);
    return true;
  } catch (const Error&) {
    return false;
  }
}

// At least one mutant must be refused and one decoded, or the mutations do not test anything.
void fuzz(const Bytes& seed, bool repair, unsigned number) {
  ASSERT_TRUE(survives(seed));
  std::mt19937 random(number);
  int decoded = 0;
  for (int i = 0; i < kMutations; ++i) {
    Bytes mutant = seed;
    mutate(mutant, random);
    if (repair) repair_checksums(mutant);
    decoded += survives(mutant);
  }
  EXPECT_GT(decoded, 0);
  EXPECT_LT(decoded, kMutations);
}

TEST(ImageFuzz, Jpeg) {
  std::mt19937 random(1);
  fuzz(with_exif(encode_jpeg(noise(24, 33, random))), false, 11);
  fuzz(with_exif(encode_jpeg(noise(8, 8, random))), false, 12);
}

TEST(ImageFuzz, PngChecksums) {
  std::mt19937 random(2);
  fuzz(encode_png(noise(24, 33, random)), false, 21);
  fuzz(encode_png(noise(24, 33, random)), true, 22);
}

TEST(ImageFuzz, PngKinds) {
  const std::pair<uint8_t, uint8_t> kinds[] = {{1, 0}, {16, 0}, {8, 2}, {16, 2}, {2, 3}, {8, 4}, {16, 6}};
  unsigned number = 31;
  for (const auto& [depth, color] : kinds) {
    fuzz(make_png(depth, color, number % 2), true, number);
    ++number;
  }
}

TEST(ImageFuzz, RandomBytesAfterASignature) {
  std::mt19937 random(4);
  for (int i = 0; i < 2000; ++i) {
    Bytes bytes = i % 2 ? Bytes{0xff, 0xd8, 0xff} : Bytes{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    const size_t size = random() % 300;
    for (size_t k = 0; k < size; ++k) bytes.push_back(static_cast<uint8_t>(random()));
    EXPECT_FALSE(survives(bytes));
  }
}

}  // namespace
}  // namespace instseg
