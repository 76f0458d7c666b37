// SPDX-License-Identifier: Apache-2.0
#include "instseg/image.h"

#include "casters.h"
#include "instseg/preprocess.h"

namespace instseg {

namespace {

void bind_instances(py::module_& m) {
  py::class_<Instances>(m, "Instances", "Detections of one image in its own pixel coordinates.")
      .def(py::init([](at::Tensor boxes, at::Tensor scores, at::Tensor labels, ImageSize image_size,
                       std::optional<Masks> masks) {
             return Instances{std::move(boxes), std::move(scores), std::move(labels), image_size,
                              masks ? std::move(*masks) : Masks()};
           }),
           py::arg("boxes"), py::arg("scores"), py::arg("labels"), py::arg("image_size"),
           py::arg("masks") = py::none())
      .def_readonly("boxes", &Instances::boxes)
      .def_readonly("scores", &Instances::scores)
      .def_readonly("labels", &Instances::labels)
      .def_readonly("image_size", &Instances::image_size)
      .def_property_readonly("masks",
                             [](const Instances& self) {
                               return self.masks.defined() ? std::optional(self.masks) : std::nullopt;
                             })
      .def("__len__", &Instances::size)
      .def("above", &Instances::above, py::arg("threshold"), ReleaseGil())
      .def(
          "to", [](const Instances& self, at::Device device) { return self.to(device); }, py::arg("device"),
          ReleaseGil());

  py::class_<Targets>(m, "Targets", "Ground truth of one image in network pixels.")
      .def(py::init([](at::Tensor boxes, at::Tensor labels, std::optional<MaskTargets> masks,
                       const std::optional<at::Tensor>& semantic) {
             return Targets{std::move(boxes), std::move(labels), std::move(masks),
                            semantic.value_or(at::Tensor())};
           }),
           py::arg("boxes"), py::arg("labels"), py::arg("masks") = py::none(),
           py::arg("semantic") = py::none())
      .def_readonly("boxes", &Targets::boxes)
      .def_readonly("labels", &Targets::labels)
      .def_readonly("masks", &Targets::masks)
      .def_property_readonly("semantic", [](const Targets& self) {
        return self.semantic.defined() ? std::optional<at::Tensor>(self.semantic) : std::nullopt;
      });
}

void bind_io(py::module_& m) {
  m.attr("DEFAULT_PIXEL_LIMIT") = kDefaultPixelLimit;
  m.def("read_image", &read_image, py::arg("path"), py::arg("pixel_limit") = kDefaultPixelLimit,
        ReleaseGil());
  m.def(
      "decode_image",
      [](const py::bytes& data, const std::string& name, int64_t pixel_limit) {
        const std::string_view view = data;
        py::gil_scoped_release release;
        return decode_image(reinterpret_cast<const uint8_t*>(view.data()), view.size(), name, pixel_limit);
      },
      py::arg("data"), py::arg("name") = "image", py::arg("pixel_limit") = kDefaultPixelLimit);
  m.def("write_image", &write_image, py::arg("path"), py::arg("image"), ReleaseGil());
  m.def("image_decoders", &image_decoders);
  m.def(
      "draw_instances",
      [](const at::Tensor& image, const Instances& instances, const std::vector<std::string>& class_names,
         double score_threshold, bool labels, int64_t line_width, bool masks, bool boxes) {
        return draw_instances(image, instances, class_names,
                              {score_threshold, labels, line_width, masks, boxes});
      },
      py::arg("image"), py::arg("instances"), py::arg("class_names"),
      py::arg("score_threshold") = DrawOptions().score_threshold, py::arg("labels") = DrawOptions().labels,
      py::arg("line_width") = DrawOptions().line_width, py::arg("masks") = DrawOptions().masks,
      py::arg("boxes") = DrawOptions().boxes, ReleaseGil());
}

void bind_preprocess(py::module_& m) {
  py::class_<ImageBatch>(m, "ImageBatch", "Network input for several images, zero-padded to a common size.")
      .def(py::init(
               [](at::Tensor pixels, std::vector<ImageSize> sizes, std::vector<ImageSize> original_sizes) {
                 return ImageBatch{std::move(pixels), std::move(sizes), std::move(original_sizes)};
               }),
           py::arg("pixels"), py::arg("sizes"), py::arg("original_sizes"))
      .def_readonly("pixels", &ImageBatch::pixels)
      .def_readonly("sizes", &ImageBatch::sizes)
      .def_readonly("original_sizes", &ImageBatch::original_sizes)
      .def("__len__", [](const ImageBatch& self) { return self.sizes.size(); })
      .def(
          "to",
          [](const ImageBatch& self, at::Device device) {
            return ImageBatch{self.pixels.to(device), self.sizes, self.original_sizes};
          },
          py::arg("device"), ReleaseGil());
  m.def("network_size", &network_size, py::arg("original"), py::arg("config"));
  m.def("resize_image", &resize_image, py::arg("image"), py::arg("size"), py::arg("kernel") = "pillow",
        ReleaseGil());
  m.def("make_batch", &make_batch, py::arg("images"), py::arg("config"),
        py::arg("original_sizes") = std::vector<ImageSize>(), ReleaseGil());
  m.def("preprocess", &preprocess, py::arg("images"), py::arg("config"), ReleaseGil());
}

}  // namespace

void init_image(py::module_& m) {
  bind_instances(m);
  bind_io(m);
  bind_preprocess(m);
}

}  // namespace instseg
