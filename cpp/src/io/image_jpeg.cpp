// SPDX-License-Identifier: Apache-2.0
#include <ATen/ops/empty.h>
#include <jerror.h>
#include <jpeglib.h>

#include <cstdio>  // before jpeglib.h, which needs FILE
#include <cstdlib>
#include <cstring>

#include "instseg/error.h"
#include "io/image_codec.h"

namespace instseg {
namespace {

constexpr int kExif = JPEG_APP0 + 1;
constexpr char kExifPrefix[] = {'E', 'x', 'i', 'f', 0, 0};
constexpr int kQuality = 95;
constexpr int kMaxScans = 500;  // a crafted progressive file can ask for millions of passes over the image

// Where libjpeg's callbacks leave their findings; `base` is first so that both share one address.
struct ErrorState {
  jpeg_error_mgr base;
  jmp_buf escape;
  bool truncated;
  char message[JMSG_LENGTH_MAX];
};

ErrorState& state(j_common_ptr info) { return *reinterpret_cast<ErrorState*>(info->err); }

[[noreturn]] void on_error(j_common_ptr info) {
  info->err->format_message(info, state(info).message);
  longjmp(state(info).escape, 1);
}

// Warnings are decoded through, as every viewer does, except the end of the data before the end of the image.
void on_message(j_common_ptr info, int level) {
  if (level >= 0 || info->err->msg_code != JWRN_JPEG_EOF) return;
  state(info).truncated = true;
  longjmp(state(info).escape, 1);
}

void on_output(j_common_ptr) {}

void limit_scans(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number <= kMaxScans) return;
  std::snprintf(state(info).message, JMSG_LENGTH_MAX, "more than %d scans", kMaxScans);
  longjmp(state(info).escape, 1);
}

void install(ErrorState& errors) {
  jpeg_std_error(&errors.base);
  errors.base.error_exit = on_error;
  errors.base.emit_message = on_message;
  errors.base.output_message = on_output;
}

struct Decoder {
  jpeg_decompress_struct info{};
  ErrorState errors{};
  jpeg_progress_mgr progress{};

  Decoder() {
    install(errors);
    info.err = &errors.base;
    progress.progress_monitor = limit_scans;
  }
  ~Decoder() { jpeg_destroy_decompress(&info); }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  // Runs one stage of the decoding and turns libjpeg's failure into an exception.
  template <class Step>
  void run(const std::string& name, const Step& step) {
    if (returns_normally(errors.escape, step)) return;
    check<ValueError>(!errors.truncated, "[read_image] ", name, ": is truncated");
    throw ValueError(join("[read_image] ", name, ": broken JPEG data: ", errors.message));
  }
};

int orientation(const jpeg_decompress_struct& info) {
  for (const jpeg_marker_struct* marker = info.marker_list; marker; marker = marker->next) {
    if (marker->marker == kExif && marker->data_length > sizeof kExifPrefix &&
        std::memcmp(marker->data, kExifPrefix, sizeof kExifPrefix) == 0) {
      return exif_orientation(marker->data + sizeof kExifPrefix, marker->data_length - sizeof kExifPrefix);
    }
  }
  return 1;
}

uint8_t times(int a, int b) {  // a * b / 255, rounded
  const int product = a * b + 128;
  return static_cast<uint8_t>(((product >> 8) + product) >> 8);
}

// Photoshop stores CMYK inverted and everyone followed, Pillow included: 255 is no ink, so RGB = CMY * K.
void cmyk_row_to_rgb(const uint8_t* cmyk, int64_t width, uint8_t* rgb) {
  for (int64_t x = 0; x < width; ++x, cmyk += 4, rgb += 3) {
    const int black = cmyk[3];
    for (int c = 0; c < 3; ++c) rgb[c] = static_cast<uint8_t>(black - times(255 - cmyk[c], black));
  }
}

void read_rows(jpeg_decompress_struct& info, uint8_t* cmyk, uint8_t* out) {
  const int64_t width = info.output_width;
  while (info.output_scanline < info.output_height) {
    uint8_t* target = out + 3 * width * info.output_scanline;
    JSAMPROW row = cmyk ? cmyk : target;
    if (jpeg_read_scanlines(&info, &row, 1) == 1 && cmyk) cmyk_row_to_rgb(cmyk, width, target);
  }
}

}  // namespace

bool has_jpeg() { return true; }

DecodedImage decode_jpeg(const EncodedImage& image, int64_t pixel_limit) {
  Decoder decoder;
  jpeg_decompress_struct& info = decoder.info;
  decoder.run(image.name, [&] {
    jpeg_create_decompress(&info);
    info.progress = &decoder.progress;
    jpeg_mem_src(&info, image.bytes, image.size);
    jpeg_save_markers(&info, kExif, 0xffff);
    jpeg_read_header(&info, TRUE);
  });
  check_pixel_count(image.name, info.image_width, info.image_height, pixel_limit);
  check<ValueError>(info.num_components != 2 && info.num_components <= 4, "[read_image] ", image.name,
                    ": JPEG with ", info.num_components, " components is not supported");

  DecodedImage decoded;
  decoded.orientation = orientation(info);
  const bool cmyk = info.num_components == 4;
  info.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
  decoder.run(image.name, [&] { jpeg_start_decompress(&info); });
  const int64_t height = info.output_height, width = info.output_width;
  decoded.pixels = at::empty({height, width, 3}, at::kByte);
  std::vector<uint8_t> row(cmyk ? 4 * width : 0);
  uint8_t* out = decoded.pixels.mutable_data_ptr<uint8_t>();
  decoder.run(image.name, [&] {
    read_rows(info, cmyk ? row.data() : nullptr, out);
    jpeg_finish_decompress(&info);
  });
  return decoded;
}

std::vector<uint8_t> encode_jpeg(const at::Tensor& image) {
  jpeg_compress_struct info{};
  ErrorState errors{};
  install(errors);
  info.err = &errors.base;
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  const uint8_t* pixels = image.const_data_ptr<uint8_t>();
  const auto height = static_cast<JDIMENSION>(image.size(0)), width = static_cast<JDIMENSION>(image.size(1));

  const bool ok = returns_normally(errors.escape, [&] {
    jpeg_create_compress(&info);
    jpeg_mem_dest(&info, &buffer, &size);
    info.image_width = width;
    info.image_height = height;
    info.input_components = 3;
    info.in_color_space = JCS_RGB;
    jpeg_set_defaults(&info);
    jpeg_set_quality(&info, kQuality, TRUE);
    jpeg_start_compress(&info, TRUE);
    while (info.next_scanline < height) {
      auto* row = const_cast<uint8_t*>(pixels + size_t{3} * width * info.next_scanline);
      jpeg_write_scanlines(&info, &row, 1);
    }
    jpeg_finish_compress(&info);
  });
  jpeg_destroy_compress(&info);
  std::vector<uint8_t> bytes(buffer, ok ? buffer + size : buffer);
  std::free(buffer);
  check<ValueError>(ok, "[write_image] cannot encode ", width, "x", height,
                    " pixels as JPEG: ", errors.message);
  return bytes;
}

}  // namespace instseg
