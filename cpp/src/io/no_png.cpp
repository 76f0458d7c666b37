// SPDX-License-Identifier: Apache-2.0
// Compiled instead of image_png.cpp when the decoder is switched off.
#include "instseg/error.h"
#include "io/image_codec.h"

namespace instseg {

bool has_png() { return false; }

DecodedImage decode_png(const EncodedImage& image, int64_t) {
  throw ValueError(join("[read_image] ", image.name,
                        ": this build cannot read PNG; rebuild with libpng and -DINSTSEG_WITH_PNG=ON"));
}

std::vector<uint8_t> encode_png(const at::Tensor&) {
  throw ValueError(
      "[write_image] this build cannot write PNG; rebuild with libpng and -DINSTSEG_WITH_PNG=ON");
}

}  // namespace instseg
