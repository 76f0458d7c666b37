// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/locations.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/stack.h>

#include "instseg/error.h"

namespace instseg {

at::Tensor locations(const LocationGrid& grid, at::Device device) {
  check<ValueError>(grid.height >= 0 && grid.width >= 0, "[locations] grid of ", grid.height, " x ",
                    grid.width, " cells; sizes must be >= 0");
  check<ValueError>(grid.step_x > 0 && grid.step_y > 0, "[locations] steps ", grid.step_x, ", ", grid.step_y,
                    " px; they must be > 0");
  const auto options = at::TensorOptions(device).dtype(at::kLong);
  const auto axis = [&](int64_t cells, int64_t step) {
    return (at::arange(cells, options) * step + grid.offset).to(at::kFloat);
  };
  const at::Tensor x = axis(grid.width, grid.step_x).unsqueeze(0).expand({grid.height, grid.width});
  const at::Tensor y = axis(grid.height, grid.step_y).unsqueeze(1).expand({grid.height, grid.width});
  return at::stack({x, y}, 2).reshape({grid.height * grid.width, 2});
}

}  // namespace instseg
