// SPDX-License-Identifier: Apache-2.0
#include "instseg/rle.h"

#include <ATen/ops/zeros.h>

#include <cstring>
#include <limits>

#include "instseg/error.h"

// The text holds one number after another: a count as it is up to the third, later ones as the difference
// from the count two before. A number is cut into groups of five bits, lowest first, in two's complement; a
// character is 48 + group, plus 32 when another group follows.
namespace instseg {
namespace {

constexpr int kBits = 5, kMore = 1 << kBits, kSign = kMore >> 1, kFirst = 48;
constexpr int kMaxGroups = 7;  // 35 bits hold every difference of two 32-bit counts

/** Pixels of an image of `size`; ValueError when run lengths cannot count them. */
uint64_t pixels_of(const char* function, const ImageSize& size) {
  constexpr int64_t limit = std::numeric_limits<uint32_t>::max();
  check<ValueError>(
      size.height >= 0 && size.width >= 0 && (size.width == 0 || size.height <= limit / size.width), "[",
      function, "] size ", size.height, "x", size.width, " is not one of at most ", limit, " pixels");
  return static_cast<uint64_t>(size.height) * static_cast<uint64_t>(size.width);
}

/** The number at `place`, which moves behind it. */
int64_t read_number(const std::string& text, size_t& place) {
  int64_t value = 0;
  for (int group = 0;; ++group) {
    check<ValueError>(place < text.size(),
                      "[Rle.from_compressed] the text ends within a number; it is cut off");
    check<ValueError>(group < kMaxGroups, "[Rle.from_compressed] the number before character ", place,
                      " is too large for a run length");
    const int code = static_cast<unsigned char>(text[place++]) - kFirst;
    check<ValueError>(code >= 0 && code < 2 * kMore, "[Rle.from_compressed] character ", place - 1,
                      " is not one of compressed run lengths ('0' to 'o')");
    value |= static_cast<int64_t>(code & (kMore - 1)) << (kBits * group);
    if (code & kMore) continue;
    if (code & kSign) value -= int64_t{1} << (kBits * (group + 1));
    return value;
  }
}

/** First place from `i` on whose byte's being 0 differs from `zero`. */
int64_t run_end(const uint8_t* bytes, int64_t i, int64_t n, bool zero) {
  if (zero) {
    for (uint64_t word = 0; i + 8 <= n; i += 8) {
      std::memcpy(&word, bytes + i, 8);
      if (word != 0) break;
    }
  }
  while (i < n && (bytes[i] == 0) == zero) ++i;
  return i;
}

}  // namespace

int64_t Rle::area() const {
  int64_t sum = 0;
  for (size_t i = 1; i < counts.size(); i += 2) sum += counts[i];
  return sum;
}

void Rle::check() const {
  const uint64_t pixels = pixels_of("Rle", size);
  uint64_t sum = 0;
  for (const uint32_t count : counts) sum += count;
  instseg::check<ValueError>(sum == pixels, "[Rle] the run lengths cover ", sum, " pixels, the image of ",
                             size.height, "x", size.width, " has ", pixels);
}

std::string Rle::compressed() const {
  std::string text;
  text.reserve(2 * counts.size());
  for (size_t i = 0; i < counts.size(); ++i) {
    int64_t value = counts[i];
    if (i > 2) value -= counts[i - 2];
    for (bool more = true; more;) {
      const int group = static_cast<int>(value & (kMore - 1));
      value >>= kBits;
      more = value != (group & kSign ? -1 : 0);
      text.push_back(static_cast<char>(kFirst + group + (more ? kMore : 0)));
    }
  }
  return text;
}

Rle Rle::from_compressed(const std::string& text, const ImageSize& size) {
  Rle rle{size, {}};
  const auto pixels = static_cast<int64_t>(pixels_of("Rle.from_compressed", size));
  int64_t sum = 0;
  for (size_t place = 0; place < text.size();) {
    int64_t value = read_number(text, place);
    const size_t i = rle.counts.size();
    if (i > 2) value += rle.counts[i - 2];
    instseg::check<ValueError>(value >= 0 && value <= pixels - sum, "[Rle.from_compressed] run ", i, " of ",
                               value, " pixels does not fit into the ", pixels - sum, " left of an image of ",
                               size.height, "x", size.width);
    sum += value;
    rle.counts.push_back(static_cast<uint32_t>(value));
  }
  instseg::check<ValueError>(sum == pixels, "[Rle.from_compressed] the run lengths cover ", sum,
                             " pixels, the image of ", size.height, "x", size.width, " has ", pixels);
  return rle;
}

at::Tensor rle_decode(const Rle& rle) {
  rle.check();
  // Runs go down the columns: the columns are filled as rows, then turned.
  at::Tensor columns = at::zeros({rle.size.width, rle.size.height}, at::kByte);
  auto* place = columns.mutable_data_ptr<uint8_t>();
  for (size_t i = 0; i < rle.counts.size(); ++i) {
    if (i % 2 == 1) std::memset(place, 1, rle.counts[i]);
    place += rle.counts[i];
  }
  return columns.t().contiguous();
}

Rle rle_encode(const at::Tensor& bitmap) {
  check<ValueError>(bitmap.defined() && bitmap.dim() == 2, "[rle_encode] the bitmap is ",
                    bitmap.defined() ? join("of shape ", bitmap.sizes()) : std::string("missing"),
                    "; expected [H, W]");
  check<TypeError>(bitmap.scalar_type() == at::kBool || bitmap.scalar_type() == at::kByte,
                   "[rle_encode] the bitmap is ", bitmap.scalar_type(), "; convert it to bool or uint8");
  check<ValueError>(bitmap.is_cpu(), "[rle_encode] the bitmap is on ", bitmap.device(),
                    "; move it to the CPU");
  Rle rle{{bitmap.size(0), bitmap.size(1)}, {}};
  const auto n = static_cast<int64_t>(pixels_of("rle_encode", rle.size));
  const at::Tensor columns = bitmap.t().contiguous();
  const auto* bytes = static_cast<const uint8_t*>(columns.const_data_ptr());
  bool zero = true;
  for (int64_t i = 0; i < n || rle.counts.empty(); zero = !zero) {
    const int64_t end = run_end(bytes, i, n, zero);
    rle.counts.push_back(static_cast<uint32_t>(end - i));
    i = end;
  }
  return rle;
}

}  // namespace instseg
