// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/functional.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <string>

#include "instseg/error.h"
#include "instseg/instances.h"
#include "instseg/model.h"

namespace instseg {

namespace py = pybind11;

/** Releases the GIL while the bound function runs. */
using ReleaseGil = py::call_guard<py::gil_scoped_release>;

/** name -> tensor, in the given order. */
inline py::dict to_dict(const NamedTensors& tensors) {
  py::dict out;
  for (const auto& [name, tensor] : tensors) out[py::str(name)] = tensor;
  return out;
}

/** The reverse of to_dict; TypeError names what is not a tensor. */
inline NamedTensors to_named_tensors(const py::dict& tensors) {
  NamedTensors out;
  out.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    py::detail::make_caster<at::Tensor> caster;
    check<TypeError>(caster.load(tensor, false), "[state] ", py::str(name).cast<std::string>(),
                     " must be a tensor, got ", py::str(py::type::of(tensor)).cast<std::string>());
    out.emplace_back(py::str(name), py::detail::cast_op<at::Tensor>(caster));
  }
  return out;
}

}  // namespace instseg

namespace pybind11::detail {

/** ImageSize <-> (height, width). */
template <>
struct type_caster<instseg::ImageSize> {
  PYBIND11_TYPE_CASTER(instseg::ImageSize, const_name("tuple[int, int]"));

  bool load(handle source, bool convert) {
    make_caster<std::pair<int64_t, int64_t>> pair;
    if (!pair.load(source, convert)) return false;
    const auto value = cast_op<std::pair<int64_t, int64_t>>(pair);
    this->value = {value.first, value.second};
    return true;
  }

  static handle cast(const instseg::ImageSize& size, return_value_policy, handle) {
    return make_tuple(size.height, size.width).release();
  }
};

}  // namespace pybind11::detail
