// SPDX-License-Identifier: Apache-2.0
#include "casters.h"
#include "instseg/ops/blend.h"
#include "instseg/ops/conv_at.h"

namespace instseg {

void init_blend_ops(py::module_& m) {
  m.def("blend", &blend, py::arg("bases"), py::arg("boxes"), py::arg("images"), py::arg("attention"),
        py::arg("attention_size") = 14, py::arg("size") = 56, py::arg("spatial_scale") = 0.25, ReleaseGil());
  m.def("conv_at", &conv_at, py::arg("maps"), py::arg("weight"), py::arg("bias"), py::arg("levels"),
        py::arg("images"), py::arg("positions"), ReleaseGil());
}

}  // namespace instseg
