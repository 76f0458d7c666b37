// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/conv_at.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/floor_divide.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/remainder.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "ops/checks.h"

namespace instseg {
namespace {

constexpr int64_t kTaps = 9;

// [M] cells of one level.
struct Cells {
  at::Tensor images, positions;
};

// [M, 9, C] float32: the cells' neighbourhoods row by row, zero outside of the map. Cells that do not exist
// give some other cell's.
at::Tensor patches_of(const at::Tensor& map, const Cells& cells) {
  const int64_t height = map.size(2), width = map.size(3), channels = map.size(1);
  const at::Tensor tap = at::arange(kTaps, cells.positions.options());
  const at::Tensor rows =
      at::floor_divide(cells.positions, width).unsqueeze(1) + at::floor_divide(tap, 3) - 1;
  const at::Tensor columns = at::remainder(cells.positions, width).unsqueeze(1) + at::remainder(tap, 3) - 1;
  const at::Tensor inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width);
  const at::Tensor image = cells.images.clamp(0, map.size(0) - 1).unsqueeze(1);
  const at::Tensor index = (image * height + rows.clamp(0, height - 1)) * width + columns.clamp(0, width - 1);
  const at::Tensor values = map.permute({0, 2, 3, 1}).reshape({-1, channels}).index_select(0, index.view(-1));
  return values.view({-1, kTaps, channels}).to(at::kFloat).masked_fill(~inside.unsqueeze(2), 0);
}

// Each level looks up its own cells only; finding them is a wait on other devices.
at::Tensor gather_sorted(const std::vector<at::Tensor>& maps, const at::Tensor& levels, const Cells& cells) {
  std::vector<at::Tensor> order, parts;
  for (size_t level = 0; level < maps.size(); ++level) {
    order.push_back(at::nonzero(levels == static_cast<int64_t>(level)).view(-1));
    const Cells own{cells.images.index_select(0, order.back()),
                    cells.positions.index_select(0, order.back())};
    parts.push_back(patches_of(maps[level], own));
  }
  return at::cat(parts).index_select(0, at::argsort(at::cat(order)));
}

// Each level looks up every cell; those of other levels are dropped.
at::Tensor gather_masked(const std::vector<at::Tensor>& maps, const at::Tensor& levels, const Cells& cells) {
  at::Tensor patches;
  for (size_t level = 0; level < maps.size(); ++level) {
    const at::Tensor other = (levels != static_cast<int64_t>(level)).view({-1, 1, 1});
    const at::Tensor own = patches_of(maps[level], cells).masked_fill(other, 0);
    patches = patches.defined() ? patches + own : own;
  }
  return patches;
}

void check_maps(const std::vector<at::Tensor>& maps, const at::Tensor& weight) {
  check<ValueError>(!maps.empty(), "[conv_at] there are no maps; pass one per level");
  for (const at::Tensor& map : maps) {
    check_defined("conv_at", "a map", map);
    check<ValueError>(
        map.dim() == 4 && map.numel() > 0 && map.size(1) == weight.size(1) && map.size(0) == maps[0].size(0),
        "[conv_at] a map has shape ", map.sizes(), "; expected [B, ", weight.size(1),
        ", H, W] with one B for all levels, not empty");
    scalar_kind_of("conv_at", "a map", map);
    check<TypeError>(map.scalar_type() == maps[0].scalar_type(), "[conv_at] maps are ", map.scalar_type(),
                     " and ", maps[0].scalar_type(), "; use one dtype");
    check_same_device("conv_at", "a map", map, weight.device());
  }
}

void check_weight(const at::Tensor& weight, const at::Tensor& bias) {
  check_defined("conv_at", "weight", weight);
  check<ValueError>(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3 && weight.numel() > 0,
                    "[conv_at] weight has shape ", weight.sizes(), "; expected [O, C, 3, 3]");
  check_vector("conv_at", "bias", bias, weight.size(0));
  check_dtype("conv_at", "weight", weight, at::kFloat);
  check_dtype("conv_at", "bias", bias, at::kFloat);
  check_device("conv_at", weight.device());
  check_same_device("conv_at", "bias", bias, weight.device());
}

void check_cells(const std::vector<at::Tensor>& maps, const at::Tensor& levels, const Cells& cells) {
  check<ValueError>(levels.defined() && levels.dim() == 1, "[conv_at] levels must be a vector [M]");
  check_vector("conv_at", "images", cells.images, levels.size(0));
  check_vector("conv_at", "positions", cells.positions, levels.size(0));
  check_dtype("conv_at", "levels", levels, at::kLong);
  check_dtype("conv_at", "images", cells.images, at::kLong);
  check_dtype("conv_at", "positions", cells.positions, at::kLong);
  check_same_device("conv_at", "levels", levels, maps[0].device());
  check_same_device("conv_at", "images", cells.images, maps[0].device());
  check_same_device("conv_at", "positions", cells.positions, maps[0].device());
  if (!levels.is_cpu()) return;
  const at::Tensor level = levels.contiguous(), image = cells.images.contiguous(),
                   position = cells.positions.contiguous();
  const auto in_range = [](int64_t value, int64_t count) { return value >= 0 && value < count; };
  for (int64_t m = 0; m < levels.size(0); ++m) {
    const int64_t l = level.const_data_ptr<int64_t>()[m], b = image.const_data_ptr<int64_t>()[m],
                  p = position.const_data_ptr<int64_t>()[m];
    check<ValueError>(in_range(l, static_cast<int64_t>(maps.size())), "[conv_at] levels[", m, "] is ", l,
                      "; there are ", maps.size(), " maps");
    const at::Tensor& map = maps[l];
    check<ValueError>(in_range(b, map.size(0)) && in_range(p, map.size(2) * map.size(3)), "[conv_at] images[",
                      m, "] is ", b, ", positions[", m, "] ", p, "; the map has shape ", map.sizes());
  }
}

}  // namespace

at::Tensor conv_at(const std::vector<at::Tensor>& maps, const at::Tensor& weight, const at::Tensor& bias,
                   const at::Tensor& levels, const at::Tensor& images, const at::Tensor& positions) {
  check_weight(weight, bias);
  check_maps(maps, weight);
  const Cells cells{images, positions};
  check_cells(maps, levels, cells);
  const c10::impl::ExcludeDispatchKeyGuard in_float32(c10::autocast_dispatch_keyset);
  const at::Tensor patches =
      levels.is_cpu() ? gather_sorted(maps, levels, cells) : gather_masked(maps, levels, cells);
  // The order of the weight's memory: the patches are smaller, so they are reordered.
  if (weight.is_contiguous()) {
    return at::addmm(bias, patches.transpose(1, 2).flatten(1), weight.flatten(1).t());
  }
  return at::addmm(bias, patches.flatten(1), weight.permute({0, 2, 3, 1}).flatten(1).t());
}

}  // namespace instseg
