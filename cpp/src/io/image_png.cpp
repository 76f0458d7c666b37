// SPDX-License-Identifier: Apache-2.0
#include <ATen/ops/empty.h>
#include <png.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "instseg/error.h"
#include "io/image_codec.h"

namespace instseg {
namespace {

// What libpng's callbacks share: the unread bytes and the way out of an error.
struct PngState {
  const uint8_t* bytes;
  size_t left;
  jmp_buf escape;
  bool truncated;
  char message[160];
};

[[noreturn]] void on_error(png_structp png, png_const_charp message) {
  auto& state = *static_cast<PngState*>(png_get_error_ptr(png));
  std::snprintf(state.message, sizeof state.message, "%s", message);
  longjmp(state.escape, 1);
}

void on_warning(png_structp, png_const_charp) {}

void read_bytes(png_structp png, png_bytep out, size_t size) {
  auto& state = *static_cast<PngState*>(png_get_io_ptr(png));
  if (size > state.left) {
    state.truncated = true;
    longjmp(state.escape, 1);
  }
  std::memcpy(out, state.bytes, size);
  state.bytes += size;
  state.left -= size;
}

struct Decoder {
  PngState state{};
  png_structp png = nullptr;
  png_infop info = nullptr, end = nullptr;  // chunks before and after the pixels

  explicit Decoder(const EncodedImage& image) {
    state.bytes = image.bytes;
    state.left = image.size;
  }
  ~Decoder() { png_destroy_read_struct(&png, &info, &end); }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  // Runs one stage of the decoding and turns libpng's failure into an exception.
  template <class Step>
  void run(const std::string& name, const Step& step) {
    if (returns_normally(state.escape, step)) return;
    check<ValueError>(!state.truncated, "[read_image] ", name, ": is truncated");
    throw ValueError(join("[read_image] ", name, ": broken PNG data: ", state.message));
  }
};

int orientation(Decoder& decoder) {
#ifdef PNG_eXIf_SUPPORTED
  for (const png_infop info : {decoder.info, decoder.end}) {
    png_uint_32 size = 0;
    png_bytep exif = nullptr;
    if (png_get_eXIf_1(decoder.png, info, &size, &exif) != 0) return exif_orientation(exif, size);
  }
#else
  (void)decoder;
#endif
  return 1;
}

// Asks libpng for 8-bit RGB, or for 16-bit grey, which is reduced by clip_grey16.
void set_transforms(png_structp png, int depth, int color) {
  if (color == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
  if (color == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(png);
  if (color == PNG_COLOR_TYPE_GRAY && depth == 16) return;
  if (depth == 16) png_set_strip_16(png);  // the high byte, as Pillow
  png_set_strip_alpha(png);
  if (color == PNG_COLOR_TYPE_GRAY || color == PNG_COLOR_TYPE_GRAY_ALPHA) png_set_gray_to_rgb(png);
}

// Pillow clips 16-bit grey to 0..255 instead of scaling it. `grey` is big-endian.
void clip_grey16(const uint8_t* grey, int64_t pixels, uint8_t* rgb) {
  for (int64_t i = 0; i < pixels; ++i) {
    const uint8_t value = grey[2 * i] != 0 ? 255 : grey[2 * i + 1];
    std::fill_n(rgb + 3 * i, 3, value);
  }
}

void open(Decoder& decoder, const std::string& name) {
  decoder.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &decoder.state, on_error, on_warning);
  check<Error>(decoder.png != nullptr, "[read_image] libpng does not match its header ",
               PNG_LIBPNG_VER_STRING);
  decoder.run(name, [&] {
    decoder.info = png_create_info_struct(decoder.png);
    decoder.end = png_create_info_struct(decoder.png);
    png_set_user_limits(decoder.png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // the pixel limit decides
    png_set_read_fn(decoder.png, &decoder.state, read_bytes);
    png_read_info(decoder.png, decoder.info);
  });
}

void append(png_structp png, png_bytep data, size_t size) {
  auto& bytes = *static_cast<std::vector<uint8_t>*>(png_get_io_ptr(png));
  bytes.insert(bytes.end(), data, data + size);
}

void flush(png_structp) {}

}  // namespace

bool has_png() { return true; }

DecodedImage decode_png(const EncodedImage& image, int64_t pixel_limit) {
  Decoder decoder(image);
  open(decoder, image.name);
  const png_structp png = decoder.png;
  const auto width = static_cast<int64_t>(png_get_image_width(png, decoder.info));
  const auto height = static_cast<int64_t>(png_get_image_height(png, decoder.info));
  check_pixel_count(image.name, width, height, pixel_limit);

  const int depth = png_get_bit_depth(png, decoder.info), color = png_get_color_type(png, decoder.info);
  const bool grey16 = color == PNG_COLOR_TYPE_GRAY && depth == 16;
  decoder.run(image.name, [&] {
    set_transforms(png, depth, color);
    png_set_interlace_handling(png);
    png_read_update_info(png, decoder.info);
  });
  const int64_t row_size = width * (grey16 ? 2 : 3);
  check<Error>(static_cast<int64_t>(png_get_rowbytes(png, decoder.info)) == row_size, "[read_image] ",
               image.name, ": unexpected row size ", png_get_rowbytes(png, decoder.info));

  DecodedImage decoded;
  decoded.pixels = at::empty({height, width, 3}, at::kByte);
  uint8_t* out = decoded.pixels.mutable_data_ptr<uint8_t>();
  std::vector<uint8_t> grey(grey16 ? height * row_size : 0);
  std::vector<png_bytep> rows(height);
  for (int64_t y = 0; y < height; ++y) rows[y] = (grey16 ? grey.data() : out) + y * row_size;
  decoder.run(image.name, [&] {
    png_read_image(png, rows.data());
    png_read_end(png, decoder.end);
  });
  if (grey16) clip_grey16(grey.data(), width * height, out);
  decoded.orientation = orientation(decoder);
  return decoded;
}

std::vector<uint8_t> encode_png(const at::Tensor& image) {
  PngState state{};
  std::vector<uint8_t> bytes;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &state, on_error, on_warning);
  check<Error>(png != nullptr, "[write_image] libpng does not match its header ", PNG_LIBPNG_VER_STRING);
  png_infop info = nullptr;
  const uint8_t* pixels = image.const_data_ptr<uint8_t>();
  const auto height = static_cast<png_uint_32>(image.size(0)),
             width = static_cast<png_uint_32>(image.size(1));

  const bool ok = returns_normally(state.escape, [&] {
    info = png_create_info_struct(png);
    png_set_write_fn(png, &bytes, append, flush);
    png_set_IHDR(png, info, width, height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    for (png_uint_32 y = 0; y < height; ++y) png_write_row(png, pixels + size_t{3} * width * y);
    png_write_end(png, info);
  });
  png_destroy_write_struct(&png, &info);
  check<ValueError>(ok, "[write_image] cannot encode ", width, "x", height,
                    " pixels as PNG: ", state.message);
  return bytes;
}

}  // namespace instseg
