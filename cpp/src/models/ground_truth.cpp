// SPDX-License-Identifier: Apache-2.0
#include "models/ground_truth.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

#include "instseg/error.h"
#include "kernels/mask_runs.h"
#include "ops/mask_targets.h"

namespace instseg {
namespace {

struct Range {
  int64_t begin, end;  // pixels, empty when begin == end

  double center() const { return 0.5 * static_cast<double>(begin + end - 1); }
};

Range pixels_of(float low, float high, int64_t limit) {
  const auto cut = [&](float value) {
    return std::clamp<int64_t>(static_cast<int64_t>(std::clamp(value, -1e9f, 1e9f)), 0, limit);
  };
  const int64_t begin = cut(low);
  return {begin, std::max(begin, cut(high + 1))};
}

}  // namespace

const MaskTargets& masks_of(const Targets& targets, const ImageSize& size, size_t image) {
  return masks_of("losses", targets, size, image);
}

RasterizedMasks rasterize_boxes(const at::Tensor& boxes, const ImageSize& canvas, int64_t stride,
                                int64_t offset) {
  const auto plain = boxes.to(at::kCPU, at::kFloat).contiguous();
  const int64_t count = plain.size(0);
  const auto samples = [&](int64_t size) { return kernels::sampled_size(size, stride, offset); };
  RasterizedMasks out{at::zeros({count, samples(canvas.height), samples(canvas.width)}, at::kByte),
                      at::zeros({count, 2}, at::kFloat), at::zeros({count}, at::kLong)};
  const float* box = plain.const_data_ptr<float>();
  for (int64_t i = 0; i < count; ++i, box += 4) {
    const Range rows = pixels_of(box[1], box[3], canvas.height),
                columns = pixels_of(box[0], box[2], canvas.width);
    const int64_t top = samples(rows.begin), left = samples(columns.begin);
    out.sampled[i]
        .narrow(0, top, samples(rows.end) - top)
        .narrow(1, left, samples(columns.end) - left)
        .fill_(1);
    const int64_t area = (rows.end - rows.begin) * (columns.end - columns.begin);
    if (area == 0) continue;
    out.areas[i] = area;
    out.centers[i][0] = columns.center();
    out.centers[i][1] = rows.center();
  }
  return out;
}

}  // namespace instseg
