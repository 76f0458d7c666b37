// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/rasterize.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "kernels/mask_align.h"
#include "kernels/resize.h"
#include "ops/checks.h"
#include "ops/mask_targets.h"

namespace instseg {
namespace {

using kernels::Runs;

// Masks a thread takes at least.
constexpr int64_t kGrain = 8;

void check_sampling(const char* function, int64_t stride, int64_t offset) {
  check<ValueError>(stride >= 1, "[", function, "] stride is ", stride, "; use a value >= 1");
  check<ValueError>(offset >= 0, "[", function, "] offset is ", offset, "; use a value >= 0");
}

void check_on_cpu(const char* function, const char* name, const at::Tensor& tensor) {
  check<ValueError>(tensor.is_cpu(), "[", function, "] ", name, " is on ", tensor.device(),
                    "; move it to the CPU");
}

// The labels of `masks` as values; ValueError or TypeError when they do not fit.
std::vector<int64_t> labels_of(const char* function, const MaskTargets& masks, const at::Tensor& labels) {
  check_vector(function, "labels", labels, masks.size());
  check_dtype(function, "labels", labels, at::kLong);
  check_on_cpu(function, "labels", labels);
  const at::Tensor plain = labels.contiguous();
  const int64_t* values = plain.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < masks.size(); ++i)
    check<ValueError>(values[i] >= 0, "[", function, "] label ", values[i], " of mask ", i, " is negative");
  return {values, values + masks.size()};
}

// Polygons in the frame of a box of `size` x `size` cells; thin boxes count as 0.1 px.
Runs runs_in_box(const Polygons& polygons, const float* box, int64_t size) {
  const double x = box[0], y = box[1], cells = static_cast<double>(size);
  const double scale_x = cells / std::max(static_cast<double>(box[2]) - x, 0.1);
  const double scale_y = cells / std::max(static_cast<double>(box[3]) - y, 0.1);
  Runs runs;
  std::vector<int64_t> toggles;
  std::vector<double> moved;
  for (const auto& polygon : polygons) {
    moved.assign(polygon.begin(), polygon.end());
    for (size_t i = 0; i + 1 < moved.size(); i += 2) {
      moved[i] = (moved[i] - x) * scale_x;
      moved[i + 1] = (moved[i + 1] - y) * scale_y;
    }
    const Runs part =
        kernels::polygon_runs(moved.data(), static_cast<int64_t>(moved.size() / 2), size, size, toggles);
    runs.insert(runs.end(), part.begin(), part.end());
  }
  return runs;
}

// Paints masks one over the other into a map that lies column after column, then turns it.
template <class T>
at::Tensor painted(const std::vector<Runs>& runs, const std::vector<int64_t>& labels, const ImageSize& size,
                   at::ScalarType type) {
  at::Tensor columns = at::zeros({size.width, size.height}, type);
  T* pixels = columns.mutable_data_ptr<T>();
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto value = static_cast<T>(labels[i] + 1);
    for (const kernels::Run& run : runs[i]) std::fill(pixels + run.begin, pixels + run.end, value);
  }
  return columns.t().contiguous();
}

}  // namespace

RasterizedMasks rasterize(const MaskTargets& masks, const ImageSize& canvas, int64_t stride, int64_t offset) {
  check_sampling("rasterize", stride, offset);
  const std::vector<Runs> runs = runs_on("rasterize", masks, canvas);
  const int64_t rows = kernels::sampled_size(canvas.height, stride, offset);
  const int64_t columns = kernels::sampled_size(canvas.width, stride, offset);
  RasterizedMasks out;
  out.sampled = at::empty({masks.size(), rows, columns}, at::kByte);
  out.centers = at::zeros({masks.size(), 2}, at::kFloat);
  out.areas = at::empty({masks.size()}, at::kLong);
  auto* sampled = out.sampled.mutable_data_ptr<uint8_t>();
  auto* centers = out.centers.mutable_data_ptr<float>();
  auto* areas = out.areas.mutable_data_ptr<int64_t>();
  at::parallel_for(0, masks.size(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memset(sampled + i * rows * columns, 0, rows * columns);
      kernels::paint_sampled<uint8_t>(runs[i], canvas.height, canvas.width, stride, offset, 1,
                                      sampled + i * rows * columns);
      const kernels::Moments sum = kernels::moments(runs[i], canvas.height);
      areas[i] = sum.area;
      if (sum.area == 0) continue;
      const auto area = static_cast<double>(sum.area);
      centers[2 * i] = static_cast<float>(static_cast<double>(sum.x) / area);
      centers[2 * i + 1] = static_cast<float>(static_cast<double>(sum.y) / area);
    }
  });
  return out;
}

at::Tensor rasterize_in_boxes(const MaskTargets& masks, const at::Tensor& boxes, int64_t size) {
  check_rows_of_four("rasterize_in_boxes", "boxes", boxes);
  check_dtype("rasterize_in_boxes", "boxes", boxes, at::kFloat);
  check_on_cpu("rasterize_in_boxes", "boxes", boxes);
  check<ValueError>(boxes.size(0) == masks.size(), "[rasterize_in_boxes] ", boxes.size(0), " boxes for ",
                    masks.size(), " masks; give one of each");
  check<ValueError>(size >= 1 && size <= 4096, "[rasterize_in_boxes] size is ", size, "; use 1..4096");
  const at::Tensor plain = boxes.detach().contiguous();
  const float* corners = plain.const_data_ptr<float>();
  for (int64_t i = 0; i < plain.numel(); ++i)
    check<ValueError>(std::isfinite(corners[i]), "[rasterize_in_boxes] box ", i / 4, " has the coordinate ",
                      corners[i]);
  at::Tensor out = at::zeros({masks.size(), size, size}, at::kByte);
  auto* bitmaps = out.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, masks.size(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* box = corners + 4 * i;
      uint8_t* bitmap = bitmaps + i * size * size;
      if (const Rle* rle = std::get_if<Rle>(&masks.items()[i])) {
        const Runs runs = kernels::runs_of_counts(rle->counts.data(), rle->counts.size());
        kernels::align_runs(runs, rle->size.height, rle->size.width, box, size, bitmap);
      } else {
        const Runs runs = runs_in_box(std::get<Polygons>(masks.items()[i]), box, size);
        kernels::paint_sampled<uint8_t>(runs, size, size, 1, 0, 1, bitmap);
      }
    }
  });
  return out;
}

at::Tensor smallest_class_map(const MaskTargets& masks, const at::Tensor& labels, const ImageSize& canvas,
                              int64_t stride, int64_t offset) {
  check_sampling("smallest_class_map", stride, offset);
  const std::vector<int64_t> classes = labels_of("smallest_class_map", masks, labels);
  const std::vector<Runs> runs = runs_on("smallest_class_map", masks, canvas);
  std::vector<int64_t> areas(runs.size()), order(runs.size());
  for (size_t i = 0; i < runs.size(); ++i) areas[i] = kernels::moments(runs[i], canvas.height).area;
  // Largest first, so that the smallest is painted last; the first of equals wins.
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int64_t a, int64_t b) { return areas[a] != areas[b] ? areas[a] > areas[b] : a > b; });
  at::Tensor out = at::full({kernels::sampled_size(canvas.height, stride, offset),
                             kernels::sampled_size(canvas.width, stride, offset)},
                            -1, at::kLong);
  for (const int64_t i : order)
    kernels::paint_sampled<int64_t>(runs[i], canvas.height, canvas.width, stride, offset, classes[i],
                                    out.mutable_data_ptr<int64_t>());
  return out;
}

at::Tensor class_map(const MaskTargets& masks, const at::Tensor& labels) {
  const std::vector<int64_t> classes = labels_of("class_map", masks, labels);
  const std::vector<Runs> runs = runs_on("class_map", masks, masks.image_size());
  const bool fits = std::all_of(classes.begin(), classes.end(),
                                [](int64_t c) { return c < std::numeric_limits<uint8_t>::max(); });
  return fits ? painted<uint8_t>(runs, classes, masks.image_size(), at::kByte)
              : painted<int64_t>(runs, classes, masks.image_size(), at::kLong);
}

at::Tensor resize_nearest(const at::Tensor& map, const ImageSize& size) {
  constexpr int64_t max_side = std::numeric_limits<int32_t>::max();
  check_defined("resize_nearest", "map", map);
  check<ValueError>(map.dim() == 2 && map.numel() > 0, "[resize_nearest] map has shape ", map.sizes(),
                    "; expected [H, W] with pixels");
  check_on_cpu("resize_nearest", "map", map);
  check<ValueError>(size.height >= 1 && size.width >= 1 && size.height <= max_side && size.width <= max_side,
                    "[resize_nearest] size must be at least 1x1, got ", size.height, "x", size.width);
  const at::Tensor in = map.contiguous();
  at::Tensor out = at::empty({size.height, size.width}, in.options());
  const auto rows = kernels::pillow_nearest(in.size(0), size.height);
  const auto columns = kernels::pillow_nearest(in.size(1), size.width);
  // A value is copied as its bytes, whatever the dtype.
  const auto bytes = static_cast<int64_t>(in.element_size());
  kernels::resize_nearest(static_cast<const uint8_t*>(in.const_data_ptr()),
                          {in.size(0), in.size(1), size.height, size.width, bytes}, rows.data(),
                          columns.data(), static_cast<uint8_t*>(out.mutable_data_ptr()));
  return out;
}

}  // namespace instseg
