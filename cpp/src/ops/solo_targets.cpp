// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/solo_targets.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kernels/mask_reduce.h"
#include "kernels/solo_cells.h"
#include "ops/checks.h"
#include "ops/mask_targets.h"

namespace instseg {
namespace {

using kernels::CellGrid;
using kernels::CellRegion;
using kernels::ReduceAxis;
using kernels::Runs;

constexpr const char* kName = "solo_targets";
constexpr size_t kLevels = 5;
constexpr int64_t kDivisor = 32;
// A level's masks have stride 4 << step.
using Steps = std::array<size_t, kLevels>;
constexpr Steps kSteps = {0, 0, 1, 2, 2}, kStepsV2 = {0, 0, 0, 0, 0};
constexpr int64_t stride_of(size_t step) { return int64_t{4} << step; }
// Masks a thread takes at least.
constexpr int64_t kGrain = 4;

// An object whose mask has pixels.
struct Object {
  int64_t image, label, height;  // `height` of the mask's image
  const float* box;
  Runs runs;
  kernels::Extent extent;
  float x, y;  // center of mass
};

// Both axes of the reduction of one image's masks at one level.
struct Reduction {
  ReduceAxis rows, columns;
};

// The positives of one level; `owners` are places in the list of objects.
struct Positives {
  std::vector<int64_t> images, cells, owners;
  void add(int64_t image, int64_t cell, int64_t owner) {
    images.push_back(image);
    cells.push_back(cell);
    owners.push_back(owner);
  }
};

void check_boxes(const Targets& targets, int64_t num_classes, size_t image) {
  check_rows_of_four(kName, "boxes", targets.boxes);
  check_vector(kName, "labels", targets.labels, targets.boxes.size(0));
  check_dtype(kName, "boxes", targets.boxes, at::kFloat);
  check_dtype(kName, "labels", targets.labels, at::kLong);
  check<ValueError>(targets.boxes.is_cpu() && targets.labels.is_cpu(), "[solo_targets] targets of image ",
                    image, " are on ", targets.boxes.device(), "; move them to the CPU");
  const at::Tensor labels = targets.labels.contiguous();
  const int64_t* values = labels.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < labels.numel(); ++i)
    check<ValueError>(values[i] >= 0 && values[i] < num_classes, "[solo_targets] label ", values[i],
                      " of box ", i, " of image ", image, " is outside 0..", num_classes - 1);
}

void check_input(const std::vector<Targets>& targets, const std::vector<ImageSize>& sizes,
                 const ImageSize& canvas, int64_t num_classes) {
  check<ValueError>(num_classes >= 1, "[solo_targets] num_classes is ", num_classes, "; use a value >= 1");
  check<ValueError>(canvas.height >= kDivisor && canvas.width >= kDivisor && canvas.height % kDivisor == 0 &&
                        canvas.width % kDivisor == 0,
                    "[solo_targets] canvas ", canvas.height, " x ", canvas.width,
                    " is not a positive multiple of ", kDivisor, "; pad the images to one");
  check<ValueError>(sizes.size() == targets.size(), "[solo_targets] ", sizes.size(), " sizes for ",
                    targets.size(), " images; give one of each");
  for (size_t i = 0; i < sizes.size(); ++i) {
    const ImageSize& size = sizes[i];
    check<ValueError>(
        size.height >= 1 && size.width >= 1 && size.height <= canvas.height && size.width <= canvas.width,
        "[solo_targets] image ", i, " of ", size.height, " x ", size.width, " does not fit the canvas of ",
        canvas.height, " x ", canvas.width);
    check_boxes(targets[i], num_classes, i);
    masks_of(kName, targets[i], size, i);
  }
}

// Objects with pixels, of all images in order. `boxes` keeps what they point to.
std::vector<Object> gather(const std::vector<Targets>& targets, const std::vector<ImageSize>& sizes,
                           std::vector<at::Tensor>& boxes) {
  std::vector<Object> objects;
  for (size_t i = 0; i < targets.size(); ++i) {
    boxes.push_back(targets[i].boxes.detach().contiguous());
    if (targets[i].boxes.size(0) == 0) continue;
    const at::Tensor labels = targets[i].labels.contiguous();
    // Of the image alone: what a polygon has beyond it was cut before the image was padded.
    std::vector<Runs> runs = runs_on(kName, *targets[i].masks, sizes[i]);
    for (size_t k = 0; k < runs.size(); ++k) {
      if (runs[k].empty()) continue;
      objects.push_back({static_cast<int64_t>(i),
                         labels.const_data_ptr<int64_t>()[k],
                         sizes[i].height,
                         boxes.back().const_data_ptr<float>() + 4 * k,
                         std::move(runs[k]),
                         {},
                         0,
                         0});
    }
  }
  at::parallel_for(0, static_cast<int64_t>(objects.size()), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Object& object = objects[i];
      object.extent = kernels::extent(object.runs, object.height);
      // Exact sums, rounded once; float32 sums beyond 2^24 would depend on their order.
      const kernels::Moments sum = kernels::moments(object.runs, object.height);
      object.x = static_cast<float>(sum.x) / static_cast<float>(sum.area);
      object.y = static_cast<float>(sum.y) / static_cast<float>(sum.area);
    }
  });
  return objects;
}

CellGrid grid_of(const SoloConfig& config, size_t level, const ImageSize& canvas) {
  const auto bound = [](double value) {
    return static_cast<float>(std::min<double>(value, std::numeric_limits<float>::max()));
  };
  return {config.grids[level],
          static_cast<float>(canvas.height),
          static_cast<float>(canvas.width),
          bound(config.min_scales[level]),
          bound(config.max_scales[level]),
          static_cast<float>(config.center_region)};
}

template <class Visit>
void for_each_cell(const CellRegion& region, int64_t cells, const Visit& visit) {
  for (int64_t row = region.top; row <= region.bottom; ++row)
    for (int64_t column = region.left; column <= region.right; ++column) visit(row * cells + column);
}

// Writes labels [B, S, S] and returns the positives; `shared` cells keep every object that claims them.
Positives assign(const std::vector<Object>& objects, const CellGrid& grid, bool shared, at::Tensor& labels) {
  const int64_t area = grid.cells * grid.cells;
  auto* values = labels.mutable_data_ptr<int64_t>();
  std::vector<int64_t> owners(shared ? 0 : area * labels.size(0), -1);
  Positives positives;
  for (size_t i = 0; i < objects.size(); ++i) {
    const Object& object = objects[i];
    const auto owner = static_cast<int64_t>(i);
    const CellRegion region = kernels::cells_of(grid, object.box, object.x, object.y);
    for_each_cell(region, grid.cells, [&](int64_t cell) {
      values[object.image * area + cell] = object.label;
      if (shared) {
        positives.add(object.image, cell, owner);
      } else {
        owners[object.image * area + cell] = owner;
      }
    });
  }
  for (size_t k = 0; k < owners.size(); ++k) {
    const auto at = static_cast<int64_t>(k);
    if (owners[k] >= 0) positives.add(at / area, at % area, owners[k]);
  }
  return positives;
}

at::Tensor vector_of(const std::vector<int64_t>& values) {
  at::Tensor out = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), out.mutable_data_ptr<int64_t>());
  return out;
}

// Numbers the objects that own a cell, in their order: place -> row of the level's masks, -1 for the others.
std::vector<int64_t> mask_rows(const Positives& positives, size_t objects, int64_t* count) {
  std::vector<int64_t> rows(objects, -1);
  for (const int64_t owner : positives.owners) rows[owner] = 0;
  *count = 0;
  for (int64_t& row : rows)
    if (row == 0) row = (*count)++;
  return rows;
}

// Of each image, or one for all where masks lie on the canvas; by step.
std::vector<std::vector<Reduction>> reductions(const std::vector<ImageSize>& frames, size_t last_step) {
  std::vector<std::vector<Reduction>> out(frames.size());
  for (size_t i = 0; i < frames.size(); ++i)
    for (size_t step = 0; step <= last_step; ++step)
      out[i].push_back({kernels::reduce_axis(frames[i].height, stride_of(step)),
                        kernels::reduce_axis(frames[i].width, stride_of(step))});
  return out;
}

// Fills the masks of all levels; `rows` as mask_rows gives them, by level.
void reduce(const std::vector<Object>& objects, const std::array<std::vector<int64_t>, kLevels>& rows,
            const std::vector<std::vector<Reduction>>& by_image, const Steps& steps,
            std::vector<SoloTargets>& out) {
  std::array<uint8_t*, kLevels> masks;
  for (size_t l = 0; l < kLevels; ++l) masks[l] = out[l].masks.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, static_cast<int64_t>(objects.size()), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Object& object = objects[i];
      const auto& by_step = by_image[by_image.size() == 1 ? 0 : object.image];
      for (size_t l = 0; l < kLevels; ++l) {
        if (rows[l][i] < 0) continue;
        const int64_t height = out[l].masks.size(1), width = out[l].masks.size(2);
        const Reduction& axes = by_step[steps[l]];
        kernels::reduce_mask(object.runs, object.height, object.extent, axes.rows, axes.columns, width,
                             masks[l] + rows[l][i] * height * width);
      }
    }
  });
}

}  // namespace

std::vector<SoloTargets> solo_targets(const std::vector<Targets>& targets,
                                      const std::vector<ImageSize>& sizes, const ImageSize& canvas,
                                      int64_t num_classes, const SoloConfig& config) {
  config.check();
  check_input(targets, sizes, canvas, num_classes);
  const bool v2 = config.head == "solov2";
  const Steps& steps = v2 ? kStepsV2 : kSteps;
  std::vector<at::Tensor> boxes;
  const std::vector<Object> objects = gather(targets, sizes, boxes);
  const auto images = static_cast<int64_t>(targets.size());
  std::vector<SoloTargets> out(kLevels);
  std::array<std::vector<int64_t>, kLevels> rows;
  for (size_t l = 0; l < kLevels; ++l) {
    const CellGrid grid = grid_of(config, l, canvas);
    out[l].labels = at::full({images, grid.cells, grid.cells}, num_classes, at::kLong);
    Positives positives = assign(objects, grid, v2, out[l].labels);
    int64_t count = 0;
    rows[l] = mask_rows(positives, objects.size(), &count);
    for (int64_t& owner : positives.owners) owner = rows[l][owner];
    out[l].images = vector_of(positives.images);
    out[l].cells = vector_of(positives.cells);
    out[l].mask_of = vector_of(positives.owners);
    const int64_t stride = stride_of(steps[l]);
    out[l].masks = at::zeros({count, canvas.height / stride, canvas.width / stride}, at::kByte);
  }
  const bool padded = config.mask_frame == "padded";
  reduce(objects, rows, reductions(padded ? std::vector<ImageSize>{canvas} : sizes, steps.back()), steps,
         out);
  return out;
}

}  // namespace instseg
