// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/solo_targets.h"

#include "casters.h"

namespace instseg {

void init_solo_targets(py::module_& m) {
  py::class_<SoloTargets>(m, "SoloTargets", "Category grid and positive cells of one level.")
      .def_readonly("labels", &SoloTargets::labels)
      .def_readonly("images", &SoloTargets::images)
      .def_readonly("cells", &SoloTargets::cells)
      .def_readonly("masks", &SoloTargets::masks)
      .def_readonly("mask_of", &SoloTargets::mask_of);
  m.def("solo_targets", &solo_targets, py::arg("targets"), py::arg("sizes"), py::arg("canvas"),
        py::arg("num_classes"), py::arg("config"), ReleaseGil());
}

}  // namespace instseg
