// SPDX-License-Identifier: Apache-2.0
#include "instseg/masks.h"

#include "casters.h"

namespace instseg {

namespace {

void bind_rle(py::module_& m) {
  py::class_<Rle>(m, "Rle", "A binary mask as run lengths down the columns, zeros first.")
      .def(py::init([](const ImageSize& size, std::vector<uint32_t> counts) {
             Rle rle{size, std::move(counts)};
             rle.check();
             return rle;
           }),
           py::arg("size"), py::arg("counts"))
      .def_static("from_compressed", &Rle::from_compressed, py::arg("text"), py::arg("size"))
      .def_readonly("size", &Rle::size)
      .def_readonly("counts", &Rle::counts)
      .def("area", &Rle::area)
      .def("compressed", &Rle::compressed)
      .def(
          "__eq__", [](const Rle& self, const Rle& other) { return self == other; }, py::is_operator())
      .def(py::pickle([](const Rle& self) { return py::make_tuple(self.size, self.counts); },
                      [](const py::tuple& state) {
                        return Rle{state[0].cast<ImageSize>(), state[1].cast<std::vector<uint32_t>>()};
                      }));
  m.def("rle_encode", &rle_encode, py::arg("bitmap"), ReleaseGil());
  m.def("rle_decode", &rle_decode, py::arg("rle"), ReleaseGil());
}

std::optional<at::Tensor> boxes_of(const Masks& masks) {
  return masks.boxes.defined() ? std::optional(masks.boxes) : std::nullopt;
}

Masks make_masks(at::Tensor probabilities, const ImageSize& image_size, const std::string& placement,
                 int64_t stride, const std::string& enlarge, const ImageSize& network_size,
                 std::optional<at::Tensor> boxes, double threshold, bool inclusive) {
  return {std::move(probabilities),
          placement,
          stride,
          enlarge,
          network_size,
          boxes ? std::move(*boxes) : at::Tensor(),
          threshold,
          inclusive,
          image_size};
}

py::tuple state_of(const Masks& m) {
  return py::make_tuple(m.probabilities, m.image_size, m.placement, m.stride, m.enlarge, m.network_size,
                        boxes_of(m), m.threshold, m.inclusive);
}

Masks from_state(const py::tuple& s) {
  return make_masks(s[0].cast<at::Tensor>(), s[1].cast<ImageSize>(), s[2].cast<std::string>(),
                    s[3].cast<int64_t>(), s[4].cast<std::string>(), s[5].cast<ImageSize>(),
                    s[6].cast<std::optional<at::Tensor>>(), s[7].cast<double>(), s[8].cast<bool>());
}

void bind_masks(py::module_& m) {
  py::class_<Masks>(m, "Masks", "Masks of one image's instances, kept at the network's resolution.")
      .def(py::init(&make_masks), py::arg("probabilities"), py::arg("image_size"), py::kw_only(),
           py::arg("placement") = Masks().placement, py::arg("stride") = Masks().stride,
           py::arg("enlarge") = Masks().enlarge, py::arg("network_size") = ImageSize(),
           py::arg("boxes") = py::none(), py::arg("threshold") = Masks().threshold,
           py::arg("inclusive") = Masks().inclusive)
      .def_readonly("probabilities", &Masks::probabilities)
      .def_readonly("image_size", &Masks::image_size)
      .def_readonly("placement", &Masks::placement)
      .def_readonly("stride", &Masks::stride)
      .def_readonly("enlarge", &Masks::enlarge)
      .def_readonly("network_size", &Masks::network_size)
      .def_property_readonly("boxes", &boxes_of)
      .def_readonly("threshold", &Masks::threshold)
      .def_readonly("inclusive", &Masks::inclusive)
      .def("__len__", &Masks::size)
      .def("select", &Masks::select, py::arg("index"), ReleaseGil())
      .def(
          "to", [](const Masks& self, at::Device device) { return self.to(device); }, py::arg("device"),
          ReleaseGil())
      .def("bitmaps", &Masks::bitmaps, ReleaseGil())
      .def("rle", &Masks::rle, ReleaseGil())
      .def("tight_boxes", &Masks::tight_boxes, ReleaseGil())
      .def("area", &Masks::area, ReleaseGil())
      .def("polygons", &Masks::polygons, ReleaseGil())
      .def("crops",
           [](const Masks& self) {
             std::vector<MaskCrop> crops;
             {
               py::gil_scoped_release release;
               crops = self.crops();
             }
             py::list found;
             for (const MaskCrop& crop : crops) found.append(py::make_tuple(crop.x, crop.y, crop.bitmap));
             return found;
           })
      .def(py::pickle(&state_of, &from_state));
}

}  // namespace

void init_masks(py::module_& m) {
  bind_rle(m);
  bind_masks(m);
}

}  // namespace instseg
