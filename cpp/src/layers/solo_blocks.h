// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "layers/conv_unit.h"

namespace instseg {

/** conv without bias -> GroupNorm(32) -> ReLU, weights N(0, 0.01). */
std::shared_ptr<ConvUnit> make_solo_block(int64_t in, int64_t out, int64_t kernel = 3);

/** x with one channel of x and one of y coordinates, -1..1 from the first to the last column and row, behind
 * (Liu et al., CoordConv, 2018); either can be left out. */
at::Tensor with_coordinates(const at::Tensor& x, bool columns = true, bool rows = true);

}  // namespace instseg
