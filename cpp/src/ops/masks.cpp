// SPDX-License-Identifier: Apache-2.0
#include "instseg/masks.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/nonzero.h>

#include <algorithm>
#include <array>

#include "instseg/error.h"
#include "kernels/outline.h"
#include "kernels/runs.h"
#include "ops/paste.h"

namespace instseg {
namespace {

MaskCrop crop_of(const std::vector<uint32_t>& counts, int64_t height) {
  const kernels::PixelBox box = kernels::tight_box(counts, height);
  MaskCrop crop{box.x, box.y, at::empty({box.height, box.width}, at::kByte)};
  kernels::fill_runs(counts, height, box, crop.bitmap.mutable_data_ptr<uint8_t>());
  return crop;
}

std::vector<at::Tensor> polygons_of(const MaskCrop& crop) {
  std::vector<at::Tensor> polygons;
  for (const auto& corners :
       kernels::outlines(crop.bitmap.const_data_ptr<uint8_t>(), crop.bitmap.size(0), crop.bitmap.size(1))) {
    const auto n = static_cast<int64_t>(corners.size()) / 2;
    at::Tensor polygon = at::empty({n, 2});
    auto* out = polygon.mutable_data_ptr<float>();
    for (int64_t i = 0; i < n; ++i) {
      out[2 * i] = static_cast<float>(crop.x + corners[2 * i]);
      out[2 * i + 1] = static_cast<float>(crop.y + corners[2 * i + 1]);
    }
    polygons.push_back(std::move(polygon));
  }
  return polygons;
}

}  // namespace

Masks Masks::select(const at::Tensor& index) const {
  Masks chosen = *this;
  if (!defined()) return chosen;
  check<ValueError>(index.defined() && index.dim() == 1, "[Masks.select] the index has shape ",
                    index.defined() ? index.sizes() : at::IntArrayRef(), "; expected [M]");
  check<TypeError>(index.scalar_type() == at::kLong || index.scalar_type() == at::kBool,
                   "[Masks.select] the index is ", index.scalar_type(), "; use int64 or bool");
  check<ValueError>(index.scalar_type() == at::kLong || index.size(0) == size(), "[Masks.select] ",
                    index.size(0), " flags for ", size(), " masks");
  const at::Tensor rows = index.scalar_type() == at::kBool ? at::nonzero(index).squeeze(1) : index;
  chosen.probabilities = probabilities.index_select(0, rows);
  if (boxes.defined()) chosen.boxes = boxes.index_select(0, rows);
  return chosen;
}

Masks Masks::to(at::Device device) const {
  Masks moved = *this;
  if (defined()) moved.probabilities = probabilities.to(device);
  if (boxes.defined()) moved.boxes = boxes.to(device);
  return moved;
}

at::Tensor Masks::bitmaps() const { return paste_bitmaps(*this); }

std::vector<Rle> Masks::rle() const {
  std::vector<Rle> found(size());
  for_each_mask(*this, [&](int64_t i, std::vector<uint32_t>& counts) {
    found[i] = {image_size, {counts.begin(), counts.end()}};  // a copy has no spare room
  });
  return found;
}

at::Tensor Masks::area() const {
  const at::Tensor areas = at::empty({size()}, at::kLong);
  auto* out = areas.mutable_data_ptr<int64_t>();
  for_each_mask(*this, [&](int64_t i, std::vector<uint32_t>& counts) {
    out[i] = 0;
    for (size_t k = 1; k < counts.size(); k += 2) out[i] += counts[k];
  });
  return areas;
}

at::Tensor Masks::tight_boxes() const {
  const at::Tensor found = at::empty({size(), 4});
  auto* out = found.mutable_data_ptr<float>();
  for_each_mask(*this, [&](int64_t i, std::vector<uint32_t>& counts) {
    const kernels::PixelBox box = kernels::tight_box(counts, image_size.height);
    const std::array corners = {box.x, box.y, box.x + box.width, box.y + box.height};
    for (size_t k = 0; k < corners.size(); ++k) {
      out[4 * i + static_cast<int64_t>(k)] = box.width > 0 ? static_cast<float>(corners[k]) : 0.0F;
    }
  });
  return found;
}

std::vector<std::vector<at::Tensor>> Masks::polygons() const {
  std::vector<std::vector<at::Tensor>> found(size());
  for_each_mask(*this, [&](int64_t i, std::vector<uint32_t>& counts) {
    found[i] = polygons_of(crop_of(counts, image_size.height));
  });
  return found;
}

std::vector<MaskCrop> Masks::crops() const {
  std::vector<MaskCrop> found(size());
  for_each_mask(*this, [&](int64_t i, std::vector<uint32_t>& counts) {
    found[i] = crop_of(counts, image_size.height);
  });
  return found;
}

}  // namespace instseg
