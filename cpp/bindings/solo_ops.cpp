// SPDX-License-Identifier: Apache-2.0
#include "casters.h"
#include "instseg/ops/binary_masks.h"
#include "instseg/ops/points_nms.h"

namespace instseg {

void init_solo_ops(py::module_& m) {
  py::class_<PackedMasks>(m, "PackedMasks", "Binary masks of one size as bits.")
      .def_readonly("bits", &PackedMasks::bits)
      .def_readonly("areas", &PackedMasks::areas)
      .def_readonly("mass", &PackedMasks::mass)
      .def("__len__", &PackedMasks::size)
      .def("select", &PackedMasks::select, py::arg("index"), ReleaseGil());
  py::class_<GridCandidates>(m, "GridCandidates", "Cells of a category grid with a class above a threshold.")
      .def_readonly("cells", &GridCandidates::cells)
      .def_readonly("labels", &GridCandidates::labels)
      .def_readonly("scores", &GridCandidates::scores);
  m.def("pack_masks", &pack_masks, py::arg("probabilities"), py::arg("threshold") = 0.5, ReleaseGil());
  m.def("mask_iou", &mask_iou, py::arg("a"), py::arg("b"), ReleaseGil());
  m.def("matrix_nms", &matrix_nms, py::arg("masks"), py::arg("scores"), py::arg("labels"),
        py::arg("kernel") = "gaussian", py::arg("sigma") = 2.0, ReleaseGil());
  m.def("mask_nms", &mask_nms, py::arg("masks"), py::arg("scores"), py::arg("labels"),
        py::arg("iou_threshold"), ReleaseGil());
  m.def("points_nms", &points_nms, py::arg("logits"), py::arg("threshold"), ReleaseGil());
}

}  // namespace instseg
