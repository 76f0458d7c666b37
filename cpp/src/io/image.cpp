// SPDX-License-Identifier: Apache-2.0
#include "instseg/image.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "instseg/error.h"
#include "io/atomic_file.h"
#include "io/image_codec.h"

namespace instseg {
namespace {

constexpr size_t kSignatureSize = 8;
constexpr size_t kReadSize = size_t{1} << 20;

enum class Format { kJpeg, kPng };

bool starts_with(const uint8_t* bytes, size_t size, std::initializer_list<uint8_t> signature) {
  return size >= signature.size() && std::equal(signature.begin(), signature.end(), bytes);
}

// The format by content; throws for anything that is not an image this library can know.
Format sniff(const uint8_t* bytes, size_t size, const std::string& name) {
  check<ValueError>(size > 0, "[read_image] ", name, ": file is empty");
  if (starts_with(bytes, size, {0xff, 0xd8, 0xff})) return Format::kJpeg;
  if (starts_with(bytes, size, {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'})) return Format::kPng;
  std::string start;
  for (size_t i = 0; i < std::min<size_t>(size, 4); ++i) {
    char text[4];
    std::snprintf(text, sizeof text, " %02x", bytes[i]);
    start += text;
  }
  throw ValueError(join("[read_image] ", name, ": is not a JPEG or PNG image (starts with", start, ")"));
}

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

std::vector<uint8_t> read_file(const std::string& path) {
  std::error_code ignored;
  check<IoError>(!std::filesystem::is_directory(path, ignored), "[read_image] ", path, ": is a folder");
  const File file(std::fopen(path.c_str(), "rb"));
  check<IoError>(file != nullptr, "[read_image] ", path, ": cannot be opened: ", std::strerror(errno));
  std::vector<uint8_t> bytes;
  for (size_t wanted = kSignatureSize;; wanted = kReadSize) {
    const size_t before = bytes.size();
    bytes.resize(before + wanted);
    bytes.resize(before + std::fread(bytes.data() + before, 1, wanted, file.get()));
    check<IoError>(!std::ferror(file.get()), "[read_image] ", path,
                   ": cannot be read: ", std::strerror(errno));
    if (before == 0)
      sniff(bytes.data(), bytes.size(), path);  // a large file that is no image is not read further
    if (bytes.size() < before + wanted) return bytes;
  }
}

// EXIF orientation: what the viewer must do to show the stored pixels upright.
at::Tensor upright(const at::Tensor& stored, int orientation) {
  at::Tensor image = orientation >= 5 ? stored.transpose(0, 1) : stored;
  const bool flip_rows = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
  const bool flip_columns = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
  if (flip_rows) image = image.flip(0);
  if (flip_columns) image = image.flip(1);
  return image.contiguous();
}

std::string lower_extension(const std::string& path) {
  std::string extension = std::filesystem::path(path).extension().string();
  for (char& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return extension;
}

}  // namespace

void check_pixel_count(const std::string& name, int64_t width, int64_t height, int64_t pixel_limit) {
  check<ValueError>(width >= 1 && height >= 1, "[read_image] ", name, ": has no pixels: ", width, "x",
                    height);
  check<ValueError>(height <= pixel_limit / width, "[read_image] ", name, ": ", width, "x", height, " = ",
                    width * height, " pixels exceeds the limit of ", pixel_limit,
                    "; raise it with --pixel-limit");
}

at::Tensor decode_image(const uint8_t* bytes, size_t size, const std::string& name, int64_t pixel_limit) {
  const EncodedImage encoded{bytes, size, name};
  const DecodedImage decoded = sniff(bytes, size, name) == Format::kJpeg ? decode_jpeg(encoded, pixel_limit)
                                                                         : decode_png(encoded, pixel_limit);
  return upright(decoded.pixels, decoded.orientation);
}

at::Tensor read_image(const std::string& path, int64_t pixel_limit) {
  const std::vector<uint8_t> bytes = read_file(path);
  return decode_image(bytes.data(), bytes.size(), path, pixel_limit);
}

void write_image(const std::string& path, const at::Tensor& image) {
  const std::string extension = lower_extension(path);
  const bool jpeg = extension == ".jpg" || extension == ".jpeg";
  check<ValueError>(jpeg || extension == ".png", "[write_image] ", path,
                    ": extension is not .png, .jpg or .jpeg");
  check<ValueError>(
      image.defined() && image.dim() == 3 && image.size(2) == 3 && image.numel() > 0,
      "[write_image] needs an RGB image [H, W, 3]",
      image.defined() ? join(", got ", image.sizes()) : std::string(", got an undefined tensor"));
  check<TypeError>(image.scalar_type() == at::kByte, "[write_image] needs uint8 pixels, got ",
                   image.scalar_type());
  const at::Tensor pixels = image.to(at::kCPU).contiguous();
  const std::vector<uint8_t> bytes = jpeg ? encode_jpeg(pixels) : encode_png(pixels);
  AtomicFile file(path, "write_image");
  file.write(bytes.data(), bytes.size());
  file.commit();
}

std::vector<std::string> image_decoders() {
  std::vector<std::string> names;
  if (has_jpeg()) names.emplace_back("jpeg");
  if (has_png()) names.emplace_back("png");
  return names;
}

}  // namespace instseg
