// SPDX-License-Identifier: Apache-2.0
#include "casters.h"
#include "instseg/ops/aligned_bilinear.h"
#include "instseg/ops/dynamic_mask_head.h"

namespace instseg {

void init_mask_ops(py::module_& m) {
  const DynamicHead defaults;
  py::class_<DynamicHead>(m, "DynamicHead", "Form of a dynamic mask head.")
      .def(py::init([](int64_t depth, int64_t width, std::string coordinates, int64_t stride) {
             return DynamicHead{depth, width, std::move(coordinates), stride};
           }),
           py::kw_only(), py::arg("depth") = defaults.depth, py::arg("width") = defaults.width,
           py::arg("coordinates") = defaults.coordinates, py::arg("stride") = defaults.stride)
      .def_readwrite("depth", &DynamicHead::depth)
      .def_readwrite("width", &DynamicHead::width)
      .def_readwrite("coordinates", &DynamicHead::coordinates)
      .def_readwrite("stride", &DynamicHead::stride)
      .def("parameters", &DynamicHead::parameters, py::arg("channels"));
  m.def("aligned_bilinear", &aligned_bilinear, py::arg("x"), py::arg("factor"), ReleaseGil());
  m.def("dynamic_mask_head", &dynamic_mask_head, py::arg("features"), py::arg("parameters"),
        py::arg("images"), py::arg("locations"), py::arg("scales"), py::arg("head") = defaults, ReleaseGil());
}

}  // namespace instseg
