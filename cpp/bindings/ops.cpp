// SPDX-License-Identifier: Apache-2.0
#include "casters.h"
#include "instseg/ops/box_loss.h"
#include "instseg/ops/dice_loss.h"
#include "instseg/ops/fcos_decode.h"
#include "instseg/ops/fcos_targets.h"
#include "instseg/ops/focal_loss.h"
#include "instseg/ops/locations.h"
#include "instseg/ops/nms.h"

namespace instseg {

namespace {

void bind_fcos_structs(py::module_& m) {
  py::class_<LocationGrid>(m, "LocationGrid", "Positions of a feature map's cells in the network image.")
      .def(py::init([](int64_t height, int64_t width, int64_t step_x, int64_t step_y, int64_t offset) {
             return LocationGrid{height, width, step_x, step_y, offset};
           }),
           py::arg("height"), py::arg("width"), py::arg("step_x"), py::arg("step_y"), py::arg("offset"))
      .def_readonly("height", &LocationGrid::height)
      .def_readonly("width", &LocationGrid::width)
      .def_readonly("step_x", &LocationGrid::step_x)
      .def_readonly("step_y", &LocationGrid::step_y)
      .def_readonly("offset", &LocationGrid::offset);
  py::class_<TargetLevel>(m, "TargetLevel", "One pyramid level as target assignment sees it.")
      .def(py::init([](const LocationGrid& grid, double stride, double lower, double upper) {
             return TargetLevel{grid, stride, lower, upper};
           }),
           py::arg("grid"), py::arg("stride"), py::arg("lower"), py::arg("upper"))
      .def_readonly("grid", &TargetLevel::grid)
      .def_readonly("stride", &TargetLevel::stride)
      .def_readonly("lower", &TargetLevel::lower)
      .def_readonly("upper", &TargetLevel::upper);
  py::class_<FcosLevel>(m, "FcosLevel", "Head outputs of one pyramid level.")
      .def(py::init([](at::Tensor logits, at::Tensor reg, at::Tensor centerness, const LocationGrid& grid,
                       double unit) {
             return FcosLevel{std::move(logits), std::move(reg), std::move(centerness), grid, unit};
           }),
           py::arg("logits"), py::arg("reg"), py::arg("centerness"), py::arg("grid"), py::arg("unit"))
      .def_readonly("logits", &FcosLevel::logits)
      .def_readonly("reg", &FcosLevel::reg)
      .def_readonly("centerness", &FcosLevel::centerness)
      .def_readonly("grid", &FcosLevel::grid)
      .def_readonly("unit", &FcosLevel::unit);
  py::class_<FcosTargets>(m, "FcosTargets", "Assignment of every location.")
      .def_readonly("labels", &FcosTargets::labels)
      .def_readonly("reg", &FcosTargets::reg)
      .def_readonly("gt_index", &FcosTargets::gt_index);
  py::class_<FcosCandidates>(m, "FcosCandidates", "Candidates of one image before NMS.")
      .def_readonly("boxes", &FcosCandidates::boxes)
      .def_readonly("scores", &FcosCandidates::scores)
      .def_readonly("labels", &FcosCandidates::labels)
      .def_readonly("levels", &FcosCandidates::levels)
      .def_readonly("positions", &FcosCandidates::positions);
}

}  // namespace

void init_ops(py::module_& m) {
  bind_fcos_structs(m);
  m.def("nms", &nms, py::arg("boxes"), py::arg("scores"), py::arg("labels"), py::arg("iou_threshold"),
        py::arg("class_offset") = false, ReleaseGil());
  m.def("sigmoid_focal_loss", &sigmoid_focal_loss, py::arg("logits"), py::arg("labels"),
        py::arg("alpha") = 0.25, py::arg("gamma") = 2.0, ReleaseGil());
  m.def(
      "box_loss",
      [](const at::Tensor& pred, const at::Tensor& target, const std::optional<at::Tensor>& weight,
         const std::string& kind,
         double smoothing) { return box_loss(pred, target, weight.value_or(at::Tensor()), kind, smoothing); },
      py::arg("pred"), py::arg("target"), py::arg("weight") = py::none(), py::arg("kind") = "giou",
      py::arg("smoothing") = 1.0, ReleaseGil());
  m.def("box_iou", &box_iou, py::arg("pred"), py::arg("target"), py::arg("smoothing") = 1.0, ReleaseGil());
  m.def(
      "dice_loss",
      [](const at::Tensor& maps, const at::Tensor& masks, const std::optional<at::Tensor>& index, double eps,
         bool logits) { return dice_loss(maps, masks, index.value_or(at::Tensor()), eps, logits); },
      py::arg("maps"), py::arg("masks"), py::arg("index") = py::none(), py::arg("eps") = 1e-5,
      py::arg("logits") = true, ReleaseGil());
  m.def("locations", &locations, py::arg("grid"), py::arg("device"), ReleaseGil());
  m.def("fcos_decode", &fcos_decode, py::arg("levels"), py::arg("post"), py::arg("sizes"), ReleaseGil());
  m.def("fcos_targets", &fcos_targets, py::arg("levels"), py::arg("targets"), py::arg("num_classes"),
        py::arg("config"), py::arg("centers") = std::vector<at::Tensor>(), ReleaseGil());
  m.def("centerness_of", &centerness_of, py::arg("reg"), ReleaseGil());
}

}  // namespace instseg
