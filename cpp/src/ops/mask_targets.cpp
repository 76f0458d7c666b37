// SPDX-License-Identifier: Apache-2.0
#include "ops/mask_targets.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "instseg/error.h"
#include "kernels/polygon_clip.h"
#include "kernels/resize.h"

namespace instseg {
namespace {

using kernels::Runs;
using Item = std::variant<Polygons, Rle>;

// Masks a thread takes at least; most take a few microseconds.
constexpr int64_t kGrain = 16;

int64_t pixels_of(const char* function, const ImageSize& size) {
  constexpr int64_t limit = std::numeric_limits<uint32_t>::max();
  check<ValueError>(
      size.height >= 0 && size.width >= 0 && (size.width == 0 || size.height <= limit / size.width), "[",
      function, "] size ", size.height, "x", size.width, " is not one of at most ", limit, " pixels");
  return size.height * size.width;
}

Runs runs_of(const Item& item, const ImageSize& canvas) {
  if (const Rle* rle = std::get_if<Rle>(&item)) {
    return kernels::raised_runs(kernels::runs_of_counts(rle->counts.data(), rle->counts.size()),
                                rle->size.height, canvas.height);
  }
  const Polygons& polygons = std::get<Polygons>(item);
  Runs runs;
  std::vector<int64_t> toggles;
  for (const auto& polygon : polygons) {
    const Runs part = kernels::polygon_runs(polygon.data(), static_cast<int64_t>(polygon.size() / 2),
                                            canvas.height, canvas.width, toggles);
    runs.insert(runs.end(), part.begin(), part.end());
  }
  if (polygons.size() > 1) kernels::unite(runs);
  return runs;
}

template <class Move>
Polygons moved(Polygons polygons, const Move& move) {
  for (auto& polygon : polygons) {
    for (size_t i = 0; i + 1 < polygon.size(); i += 2) move(polygon[i], polygon[i + 1]);
  }
  return polygons;
}

// The run lengths of `runs` on an image of `size`.
Rle rle_of(const Runs& runs, const ImageSize& size) {
  return {size, kernels::counts_of_runs(runs, size.height * size.width)};
}

}  // namespace

std::vector<Runs> runs_on(const char* function, const MaskTargets& masks, const ImageSize& canvas) {
  const ImageSize& image = masks.image_size();
  check<ValueError>(canvas.height >= image.height && canvas.width >= image.width, "[", function, "] canvas ",
                    canvas.height, "x", canvas.width, " is smaller than the masks' image of ", image.height,
                    "x", image.width);
  pixels_of(function, canvas);
  std::vector<Runs> runs(masks.size());
  at::parallel_for(0, masks.size(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) runs[i] = runs_of(masks.items()[i], canvas);
  });
  return runs;
}

void MaskTargets::add(Polygons polygons) {
  check<ValueError>(!polygons.empty(), "[MaskTargets] a mask without a polygon");
  for (const auto& polygon : polygons) {
    check<ValueError>(polygon.size() % 2 == 0, "[MaskTargets] a polygon has ", polygon.size(),
                      " coordinates; expected x and y of each point");
    check<ValueError>(polygon.size() >= 6, "[MaskTargets] a polygon has ", polygon.size() / 2,
                      " points; expected at least three");
    for (const double value : polygon)
      check<ValueError>(std::isfinite(value), "[MaskTargets] a polygon's coordinate is ", value);
  }
  items_.emplace_back(std::move(polygons));
}

void MaskTargets::add(Rle rle) {
  check<ValueError>(rle.size == size_, "[MaskTargets] run lengths of size ", rle.size.height, "x",
                    rle.size.width, " for an image of ", size_.height, "x", size_.width);
  rle.check();
  items_.emplace_back(std::move(rle));
}

MaskTargets MaskTargets::resized(const ImageSize& size) const {
  check<ValueError>(size.height >= 1 && size.width >= 1,
                    "[MaskTargets.resized] size must be at least 1x1, got ", size.height, "x", size.width);
  pixels_of("MaskTargets.resized", size);
  if (size == size_) return *this;
  check<ValueError>(size_.height >= 1 && size_.width >= 1, "[MaskTargets.resized] the image of ",
                    size_.height, "x", size_.width, " has no pixels");
  MaskTargets out(size);
  const double scale_x = static_cast<double>(size.width) / static_cast<double>(size_.width);
  const double scale_y = static_cast<double>(size.height) / static_cast<double>(size_.height);
  std::vector<int32_t> rows, columns;
  for (const Item& item : items_) {
    if (const Polygons* polygons = std::get_if<Polygons>(&item)) {
      out.items_.emplace_back(moved(*polygons, [&](double& x, double& y) {
        x *= scale_x;
        y *= scale_y;
      }));
      continue;
    }
    if (rows.empty()) {
      rows = kernels::pillow_nearest(size_.height, size.height);
      columns = kernels::pillow_nearest(size_.width, size.width);
    }
    const Runs runs = runs_of(item, size_);
    out.items_.emplace_back(rle_of(kernels::resized_runs(runs, size_.height, rows, columns), size));
  }
  return out;
}

MaskTargets MaskTargets::flipped() const {
  MaskTargets out(size_);
  for (const Item& item : items_) {
    if (const Polygons* polygons = std::get_if<Polygons>(&item)) {
      const auto width = static_cast<double>(size_.width);
      out.items_.emplace_back(moved(*polygons, [&](double& x, double&) { x = width - x; }));
    } else {
      const Runs runs = kernels::flipped_runs(runs_of(item, size_), size_.height, size_.width);
      out.items_.emplace_back(rle_of(runs, size_));
    }
  }
  return out;
}

MaskTargets MaskTargets::cropped(const PixelBox& box) const {
  check<ValueError>(box.width >= 1 && box.height >= 1 && box.x >= 0 && box.y >= 0 &&
                        box.x <= size_.width - box.width && box.y <= size_.height - box.height,
                    "[MaskTargets.cropped] the part of ", box.width, " x ", box.height, " pixels at x ",
                    box.x, ", y ", box.y, " is not in the ", size_.width, " x ", size_.height, " image");
  MaskTargets out({box.height, box.width});
  const auto x0 = static_cast<double>(box.x), y0 = static_cast<double>(box.y);
  for (const Item& item : items_) {
    Polygons kept;
    if (const Polygons* polygons = std::get_if<Polygons>(&item)) {
      for (auto& polygon : moved(*polygons, [&](double& x, double& y) { x -= x0, y -= y0; }))
        for (auto& ring : kernels::clipped_polygon(polygon, box.width, box.height))
          if (ring.size() >= 6) kept.push_back(std::move(ring));
    }
    if (!kept.empty()) {
      out.items_.emplace_back(std::move(kept));
      continue;
    }
    const bool cut = std::holds_alternative<Rle>(item);
    const Runs runs =
        cut ? kernels::cropped_runs(runs_of(item, size_), size_.height, box.y, box.x, box.height, box.width)
            : Runs();
    out.items_.emplace_back(rle_of(runs, out.size_));
  }
  return out;
}

MaskTargets MaskTargets::select(const std::vector<int64_t>& index) const {
  MaskTargets out(size_);
  out.items_.reserve(index.size());
  for (const int64_t i : index) {
    check<ValueError>(i >= 0 && i < size(), "[MaskTargets.select] index ", i, " is outside 0..", size() - 1);
    out.items_.push_back(items_[i]);
  }
  return out;
}

std::vector<Rle> MaskTargets::rle(const ImageSize& canvas) const {
  std::vector<Rle> out;
  out.reserve(items_.size());
  for (const Runs& runs : runs_on("MaskTargets.rle", *this, canvas)) out.push_back(rle_of(runs, canvas));
  return out;
}

std::vector<int64_t> MaskTargets::areas() const {
  std::vector<int64_t> out;
  out.reserve(items_.size());
  for (const Runs& runs : runs_on("MaskTargets.areas", *this, size_))
    out.push_back(kernels::moments(runs, size_.height).area);
  return out;
}

std::vector<std::array<double, 4>> MaskTargets::boxes() const {
  std::vector<std::array<double, 4>> out;
  out.reserve(items_.size());
  for (const Item& item : items_) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    std::array<double, 4> box = {infinity, infinity, -infinity, -infinity};
    const auto cover = [&](double x1, double y1, double x2, double y2) {
      box = {std::min(box[0], x1), std::min(box[1], y1), std::max(box[2], x2), std::max(box[3], y2)};
    };
    if (const Polygons* polygons = std::get_if<Polygons>(&item)) {
      for (const auto& polygon : *polygons)
        for (size_t i = 0; i + 1 < polygon.size(); i += 2)
          cover(polygon[i], polygon[i + 1], polygon[i], polygon[i + 1]);
    } else {
      kernels::for_each_piece(runs_of(item, size_), size_.height,
                              [&](int64_t x, int64_t top, int64_t bottom) {
                                cover(static_cast<double>(x), static_cast<double>(top),
                                      static_cast<double>(x + 1), static_cast<double>(bottom));
                              });
    }
    out.push_back(box[0] <= box[2] ? box : std::array<double, 4>{});
  }
  return out;
}

const MaskTargets& masks_of(const char* function, const Targets& targets, const ImageSize& size,
                            size_t image) {
  static const MaskTargets none;
  const int64_t count = targets.boxes.size(0);
  if (count == 0) return none;
  check<ValueError>(targets.masks.has_value(), "[", function, "] targets of image ", image,
                    " have no masks, which this model is trained with; add \"masks\" to them");
  check<ValueError>(targets.masks->size() == count, "[", function, "] targets of image ", image, " have ",
                    targets.masks->size(), " masks for ", count, " boxes");
  const ImageSize& own = targets.masks->image_size();
  check<ValueError>(own == size, "[", function, "] masks of image ", image, " are of a ", own.height, " x ",
                    own.width, " image, the network sees ", size.height, " x ", size.width,
                    "; use MaskTargets.resized");
  return *targets.masks;
}

}  // namespace instseg
