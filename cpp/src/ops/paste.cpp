// SPDX-License-Identifier: Apache-2.0
#include "ops/paste.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/paste.h"
#include "kernels/runs.h"
#include "ops/checks.h"
#include "ops/cuda_stream.h"

namespace instseg {
namespace {

using kernels::PasteAxis;
using kernels::PasteJob;
using kernels::PasteTap;

/** The largest float that is outside: a float is inside exactly if it is larger. */
float limit_of(double threshold, bool inclusive) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const auto rounded = static_cast<float>(threshold);
  const double back = rounded;
  if (inclusive) return back < threshold ? rounded : std::nextafter(rounded, -infinity);
  return back <= threshold ? rounded : std::nextafter(rounded, -infinity);
}

/** Where pixel `pixel` of a map of `cells`, enlarged by `stride`, lies: the first cell and the share of the
 * next.
 */
std::pair<int64_t, double> cell_of(int64_t pixel, int64_t cells, int64_t stride, bool aligned) {
  const auto step = static_cast<double>(stride);
  const double place = aligned ? static_cast<double>(std::max<int64_t>(0, pixel - stride / 2)) / step
                               : std::max(0.0, (static_cast<double>(pixel) + 0.5) / step - 0.5);
  const int64_t cell = std::min(static_cast<int64_t>(place), cells - 1);
  return {cell, cell == cells - 1 ? 0 : place - static_cast<double>(cell)};
}

/** The bilinear resize from `network` to `output` pixels of a map of `cells` enlarged by `stride`. */
std::vector<PasteTap> image_taps(int64_t cells, int64_t stride, bool aligned, int64_t network,
                                 int64_t output) {
  std::vector<PasteTap> taps(output);
  const double scale = static_cast<double>(network) / static_cast<double>(output);
  for (int64_t i = 0; i < output; ++i) {
    const double source = std::max(0.0, (static_cast<double>(i) + 0.5) * scale - 0.5);
    const int64_t pixel = std::min(static_cast<int64_t>(source), network - 1);
    const double fraction = pixel == network - 1 ? 0 : source - static_cast<double>(pixel);
    double weight[3] = {};
    int64_t start = 0;
    for (int64_t k = 0; k < (fraction > 0 ? 2 : 1); ++k) {
      const auto [cell, inner] = cell_of(pixel + k, cells, stride, aligned);
      if (k == 0) start = cell;
      const double share = k == 0 ? 1 - fraction : fraction;
      weight[cell - start] += share * (1 - inner);
      if (inner > 0) weight[cell - start + 1] += share * inner;
    }
    taps[i] = {static_cast<int32_t>(start), static_cast<float>(weight[1]), static_cast<float>(weight[2])};
  }
  return taps;
}

struct ImageTaps {
  std::vector<PasteTap> x, y;
  int per_tap = 2;
};

ImageTaps image_taps(const Masks& masks) {
  ImageTaps taps;
  const bool aligned = masks.enlarge == "aligned";
  taps.y = image_taps(masks.probabilities.size(1), masks.stride, aligned, masks.network_size.height,
                      masks.image_size.height);
  taps.x = image_taps(masks.probabilities.size(2), masks.stride, aligned, masks.network_size.width,
                      masks.image_size.width);
  const auto third = [](const PasteTap& tap) { return tap.third != 0; };
  if (std::any_of(taps.x.begin(), taps.x.end(), third) || std::any_of(taps.y.begin(), taps.y.end(), third)) {
    taps.per_tap = 3;
  }
  return taps;
}

/** The taps of one axis of a box; `taps` keeps them alive. */
PasteAxis box_axis(float low, float high, int64_t cells, int64_t size, std::vector<PasteTap>& taps) {
  const auto axis = kernels::box_axis(low, high, cells, size);
  taps.clear();
  for (int64_t i = axis.begin; i < axis.end; ++i) taps.push_back(kernels::box_tap(axis, i));
  return {taps.data(), axis.begin, axis.end, size};
}

/** Turns masks into run lengths on the CPU, one at a time. */
class CpuPaste {
 public:
  explicit CpuPaste(const Masks& masks)
      : masks_(masks),
        values_(masks.probabilities.detach().contiguous()),
        limit_(limit_of(masks.threshold, masks.inclusive)) {
    if (masks.placement == "image") {
      taps_ = image_taps(masks);
    } else {
      boxes_ = masks.boxes.detach().contiguous();
    }
  }

  struct Buffers {
    kernels::PasteScratch scratch;
    std::vector<PasteTap> x, y;
    std::vector<uint32_t> counts;
  };

  /** Leaves the run lengths of mask `index` in buffers.counts. */
  void run(int64_t index, Buffers& buffers) const {
    const int64_t height = values_.size(1), width = values_.size(2);
    const ImageSize& size = masks_.image_size;
    const float* map = values_.const_data_ptr<float>() + index * height * width;
    PasteAxis x{taps_.x.data(), 0, size.width, size.width}, y{taps_.y.data(), 0, size.height, size.height};
    if (boxes_.defined()) {
      const float* box = boxes_.const_data_ptr<float>() + 4 * index;
      x = box_axis(box[0], box[2], width, size.width, buffers.x);
      y = box_axis(box[1], box[3], height, size.height, buffers.y);
    }
    kernels::paste_runs_cpu({map, height, width, boxes_.defined()}, x, y, taps_.per_tap, limit_,
                            buffers.scratch, buffers.counts);
  }

 private:
  const Masks& masks_;
  at::Tensor values_, boxes_;
  float limit_;
  ImageTaps taps_;
};

void for_each_cpu(const Masks& masks, const UseRuns& use) {
  const CpuPaste paste(masks);
  const int64_t n = masks.size(), tasks = std::min<int64_t>(n, at::get_num_threads());
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    CpuPaste::Buffers buffers;
    for (int64_t task = begin; task < end; ++task) {
      for (int64_t i = task; i < n; i += tasks) {  // large masks tend to stand together
        paste.run(i, buffers);
        use(i, buffers.counts);
      }
    }
  });
}

// ---- CUDA ----

/** A job and the tensors its pointers lead to. */
struct CudaPaste {
  at::Tensor values, boxes, x, y;
  PasteJob job;
};

at::Tensor on_device(const std::vector<PasteTap>& taps, at::Device device) {
  auto* bytes = const_cast<PasteTap*>(taps.data());  // only read
  return at::from_blob(bytes, {static_cast<int64_t>(taps.size() * sizeof(PasteTap))}, at::kByte).to(device);
}

CudaPaste cuda_paste(const Masks& masks) {
  CudaPaste paste;
  paste.values = masks.probabilities.detach().contiguous();
  paste.job = {paste.values.const_data_ptr<float>(),
               masks.size(),
               paste.values.size(1),
               paste.values.size(2),
               masks.image_size.height,
               masks.image_size.width,
               nullptr,
               nullptr,
               nullptr,
               2,
               limit_of(masks.threshold, masks.inclusive)};
  if (masks.placement == "box") {
    paste.boxes = masks.boxes.detach().contiguous();
    paste.job.boxes = paste.boxes.const_data_ptr<float>();
    return paste;
  }
  const ImageTaps taps = image_taps(masks);
  paste.x = on_device(taps.x, paste.values.device());
  paste.y = on_device(taps.y, paste.values.device());
  paste.job.x = static_cast<const PasteTap*>(paste.x.const_data_ptr());
  paste.job.y = static_cast<const PasteTap*>(paste.y.const_data_ptr());
  paste.job.lines_per_tap = taps.per_tap;
  return paste;
}

void for_each_cuda(const Masks& masks, const UseRuns& use) {
  const c10::DeviceGuard guard(masks.probabilities.device());
  const CudaPaste paste = cuda_paste(masks);
  const PasteJob& job = paste.job;
  void* stream = current_stream(paste.values);
  const auto options = paste.values.options();
  const at::Tensor changes = at::empty({job.masks, job.out_width}, options.dtype(at::kInt));
  kernels::paste_count_cuda(job, changes.mutable_data_ptr<int32_t>(), stream);
  const at::Tensor ends = changes.view({-1}).cumsum(0, at::kLong);
  const at::Tensor last = ends.view({job.masks, job.out_width}).select(1, job.out_width - 1).cpu();
  const auto* mask_ends = last.const_data_ptr<int64_t>();
  const at::Tensor places = at::empty({mask_ends[job.masks - 1]}, options.dtype(at::kInt));
  if (places.numel() > 0) {
    kernels::paste_places_cuda(job, ends.const_data_ptr<int64_t>(),
                               reinterpret_cast<uint32_t*>(places.mutable_data_ptr<int32_t>()), stream);
  }
  const at::Tensor found = places.cpu();
  const auto* place = reinterpret_cast<const uint32_t*>(found.const_data_ptr<int32_t>());
  at::parallel_for(0, job.masks, 1, [&](int64_t begin, int64_t end) {
    std::vector<uint32_t> counts;
    for (int64_t i = begin; i < end; ++i) {
      uint32_t before = 0;
      counts.clear();
      for (int64_t k = i == 0 ? 0 : mask_ends[i - 1]; k < mask_ends[i]; ++k) {
        counts.push_back(place[k] - before);
        before = place[k];
      }
      counts.push_back(static_cast<uint32_t>(job.out_height * job.out_width) - before);
      use(i, counts);
    }
  });
}

bool no_pixels(const Masks& masks) { return masks.image_size.height == 0 || masks.image_size.width == 0; }

}  // namespace

void check_masks(const char* function, const Masks& masks) {
  const at::Tensor& map = masks.probabilities;
  check<ValueError>(map.defined(), "[", function, "] there are no masks");
  check<ValueError>(map.dim() == 3, "[", function, "] probabilities have shape ", map.sizes(),
                    "; expected [N, h, w]");
  check_dtype(function, "probabilities", map, at::kFloat);
  check_device(function, map.device());
  const ImageSize &image = masks.image_size, &network = masks.network_size;
  constexpr int64_t most = std::numeric_limits<uint32_t>::max();
  check<ValueError>(
      image.height >= 0 && image.width >= 0 && (image.width == 0 || image.height <= most / image.width), "[",
      function, "] image_size is ", image.height, "x", image.width, "; use one of at most ", most, " pixels");
  check<ValueError>(std::isfinite(masks.threshold), "[", function, "] threshold is ", masks.threshold);
  check<ValueError>(map.size(0) == 0 || (map.size(1) > 0 && map.size(2) > 0), "[", function,
                    "] probabilities have shape ", map.sizes(), "; a map needs at least one cell");
  if (masks.placement == "box") {
    check_rows_of_four(function, "boxes", masks.boxes);
    check<ValueError>(masks.boxes.size(0) == map.size(0), "[", function, "] ", masks.boxes.size(0),
                      " boxes for ", map.size(0), " masks");
    check_dtype(function, "boxes", masks.boxes, at::kFloat);
    check_same_device(function, "boxes", masks.boxes, map.device());
    return;
  }
  check<ValueError>(masks.placement == "image", "[", function, "] placement '", masks.placement,
                    "' is not one of image, box");
  check<ValueError>(masks.enlarge == "aligned" || masks.enlarge == "half_pixel", "[", function, "] enlarge '",
                    masks.enlarge, "' is not one of aligned, half_pixel");
  check<ValueError>(masks.stride >= 1, "[", function, "] stride is ", masks.stride, "; use at least 1");
  check<ValueError>(map.size(0) == 0 || (network.height > 0 && network.width > 0 &&
                                         network.height <= map.size(1) * masks.stride &&
                                         network.width <= map.size(2) * masks.stride),
                    "[", function, "] network_size ", network.height, "x", network.width,
                    " does not lie in maps of ", map.size(1), "x", map.size(2), " cells of ", masks.stride,
                    " px");
}

void for_each_mask(const Masks& masks, const UseRuns& use) {
  check_masks("Masks", masks);
  if (masks.size() == 0) return;
  if (no_pixels(masks)) {
    for (int64_t i = 0; i < masks.size(); ++i) {
      std::vector<uint32_t> counts = {0};
      use(i, counts);
    }
    return;
  }
  masks.probabilities.is_cpu() ? for_each_cpu(masks, use) : for_each_cuda(masks, use);
}

at::Tensor paste_bitmaps(const Masks& masks) {
  check_masks("Masks.bitmaps", masks);
  const int64_t height = masks.image_size.height, width = masks.image_size.width;
  const at::Tensor bitmaps = at::empty({masks.size(), height, width},
                                       masks.probabilities.options().dtype(at::kByte).requires_grad(false));
  if (bitmaps.numel() == 0) return bitmaps;
  auto* out = bitmaps.mutable_data_ptr<uint8_t>();
  if (masks.probabilities.is_cpu()) {
    for_each_cpu(masks, [&](int64_t i, std::vector<uint32_t>& counts) {
      kernels::fill_runs(counts, height, {0, 0, width, height}, out + i * height * width);
    });
    return bitmaps;
  }
  const c10::DeviceGuard guard(masks.probabilities.device());
  const CudaPaste paste = cuda_paste(masks);
  kernels::paste_bitmaps_cuda(paste.job, out, current_stream(paste.values));
  return bitmaps;
}

}  // namespace instseg
