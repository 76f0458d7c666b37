// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "instseg/error.h"
#include "instseg/preprocess.h"

namespace instseg {

/** Throws ValueError, in the name of `function`, unless `batch` is one image per entry of its sizes. */
inline void check_batch(const ImageBatch& batch, const char* function) {
  const size_t count = batch.sizes.size();
  const auto positive = [](const ImageSize& size) { return size.height > 0 && size.width > 0; };
  check<ValueError>(
      batch.pixels.defined() && batch.pixels.dim() == 4 && batch.pixels.size(1) == 3 && count > 0 &&
          batch.pixels.size(0) == static_cast<int64_t>(count) && batch.original_sizes.size() == count &&
          std::ranges::all_of(batch.sizes, positive) && std::ranges::all_of(batch.original_sizes, positive),
      "[", function,
      "] needs pixels [B, 3, H, W] and B positive sizes; make the batch with preprocess or make_batch");
}

}  // namespace instseg
