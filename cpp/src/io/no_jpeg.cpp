// SPDX-License-Identifier: Apache-2.0
// Compiled instead of image_jpeg.cpp when the decoder is switched off.
#include "instseg/error.h"
#include "io/image_codec.h"

namespace instseg {

bool has_jpeg() { return false; }

DecodedImage decode_jpeg(const EncodedImage& image, int64_t) {
  throw ValueError(join("[read_image] ", image.name,
                        ": this build cannot read JPEG; rebuild with libjpeg and -DINSTSEG_WITH_JPEG=ON"));
}

std::vector<uint8_t> encode_jpeg(const at::Tensor&) {
  throw ValueError(
      "[write_image] this build cannot write JPEG; rebuild with libjpeg and -DINSTSEG_WITH_JPEG=ON");
}

}  // namespace instseg
