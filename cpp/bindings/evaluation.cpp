// SPDX-License-Identifier: Apache-2.0
#include "casters.h"
#include "instseg/coco_evaluation.h"

namespace instseg {
namespace {

CocoEvaluation make_evaluation(const std::string& kind, int64_t classes, int64_t max_detections) {
  check<ValueError>(kind == "box" || kind == "mask", "[CocoEvaluation] kind must be box or mask, got '", kind,
                    "'");
  return {kind == "box" ? CocoKind::kBox : CocoKind::kMask, classes, max_detections};
}

void bind_images(py::module_& m) {
  py::class_<CocoObjects>(m, "CocoObjects", "Annotations of one image for CocoEvaluation.")
      .def(py::init([](std::vector<int64_t> labels, std::vector<double> areas, std::vector<uint8_t> crowd,
                       std::vector<CocoBox> boxes, const MaskTargets& masks) {
             return CocoObjects{std::move(labels), std::move(areas), std::move(crowd), std::move(boxes),
                                masks};
           }),
           py::arg("labels"), py::arg("areas"), py::arg("crowd"), py::kw_only(),
           py::arg("boxes") = std::vector<CocoBox>(), py::arg("masks") = MaskTargets());
  py::class_<CocoDetections>(m, "CocoDetections", "Detections of one image for CocoEvaluation.")
      .def(py::init([](std::vector<int64_t> labels, std::vector<double> scores, std::vector<CocoBox> boxes,
                       const MaskTargets& masks) {
             return CocoDetections{std::move(labels), std::move(scores), std::move(boxes), masks};
           }),
           py::arg("labels"), py::arg("scores"), py::kw_only(), py::arg("boxes") = std::vector<CocoBox>(),
           py::arg("masks") = MaskTargets());
  py::class_<CocoCurves>(m, "CocoCurves", "Precision, recall and scores of a CocoEvaluation.")
      .def_readonly("precision", &CocoCurves::precision)
      .def_readonly("recall", &CocoCurves::recall)
      .def_readonly("scores", &CocoCurves::scores)
      .def_readonly("objects", &CocoCurves::objects);
}

}  // namespace

void init_evaluation(py::module_& m) {
  bind_images(m);
  py::class_<CocoEvaluation>(m, "CocoEvaluation", "Average precision by the rules of the COCO API.")
      .def(py::init(&make_evaluation), py::arg("kind"), py::arg("classes"), py::arg("max_detections") = 100)
      .def("add", &CocoEvaluation::add, py::arg("image_id"), py::arg("truth"), py::arg("found"), ReleaseGil())
      .def("merge", &CocoEvaluation::merge, py::arg("other"))
      .def("compute", &CocoEvaluation::compute, py::arg("limits"), ReleaseGil())
      .def("image_ids", &CocoEvaluation::image_ids)
      .def("state", [](const CocoEvaluation& self) { return py::bytes(self.state()); })
      .def_static("from_state", &CocoEvaluation::from_state, py::arg("bytes"));
  m.def("coco_box_iou", &coco_box_iou, py::arg("found"), py::arg("truth"), py::arg("crowd"), ReleaseGil());
  m.def("coco_mask_iou", &coco_mask_iou, py::arg("found"), py::arg("truth"), py::arg("crowd"), ReleaseGil());
  m.def("coco_iou_thresholds", [] {
    const auto& values = coco_iou_thresholds();
    return std::vector<double>(values.begin(), values.end());
  });
  m.def("coco_recall_points", [] {
    const auto& values = coco_recall_points();
    return std::vector<double>(values.begin(), values.end());
  });
}

}  // namespace instseg
