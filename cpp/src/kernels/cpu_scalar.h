// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "kernels/scalar_kind.h"

namespace instseg::kernels {

/** Calls function(T{}) with the C++ type behind `kind`. */
template <class Function>
auto with_scalar(ScalarKind kind, const Function& function) {
  if (kind == ScalarKind::bfloat16) return function(c10::BFloat16{});
  if (kind == ScalarKind::float16) return function(c10::Half{});
  return function(float{});
}

}  // namespace instseg::kernels
