// SPDX-License-Identifier: Apache-2.0
#include "instseg/mask_targets.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <pybind11/numpy.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "casters.h"
#include "instseg/ops/rasterize.h"

namespace instseg {

namespace {

constexpr const char* kFromCoco = "[MaskTargets.from_coco] segmentation ";

std::string type_name(py::handle value) { return py::type::of(value).attr("__name__").cast<std::string>(); }

bool is_text(py::handle value) { return py::isinstance<py::str>(value) || py::isinstance<py::bytes>(value); }

/** A list or array of numbers; TypeError with `what` for anything else. */
std::vector<double> numbers_of(py::handle values, const std::string& what) {
  using Array = py::array_t<double, py::array::c_style | py::array::forcecast>;
  const Array array = is_text(values) ? Array() : Array::ensure(values);
  check<TypeError>(array && array.ndim() == 1 && !is_text(values), what, " is not a list of numbers");
  return {array.data(), array.data() + array.size()};
}

std::vector<uint32_t> counts_of(py::handle values, const std::string& what) {
  const py::array plain = py::array::ensure(values);
  check<TypeError>(plain && plain.ndim() == 1 &&
                       (plain.size() == 0 || plain.dtype().kind() == 'i' || plain.dtype().kind() == 'u'),
                   what, ": counts is neither a text nor a list of integers");
  const auto array = py::array_t < int64_t, py::array::c_style | py::array::forcecast > (plain);
  std::vector<uint32_t> counts;
  counts.reserve(array.size());
  for (py::ssize_t i = 0; i < array.size(); ++i) {
    const int64_t count = array.data()[i];
    check<ValueError>(count >= 0 && count <= std::numeric_limits<uint32_t>::max(), what, ": run length ",
                      count, " is outside 0..2^32 - 1");
    counts.push_back(static_cast<uint32_t>(count));
  }
  return counts;
}

Rle rle_of(const py::dict& segmentation, const std::string& what) {
  check<TypeError>(segmentation.contains("size") && segmentation.contains("counts"), what,
                   " has no 'size' and 'counts'");
  py::detail::make_caster<ImageSize> size;
  check<TypeError>(size.load(segmentation["size"], true), what, ": size is not height, width");
  const py::object counts = segmentation["counts"];
  const auto image = py::detail::cast_op<ImageSize>(size);
  if (is_text(counts)) return Rle::from_compressed(counts.cast<std::string>(), image);
  return {image, counts_of(counts, what)};
}

MaskTargets from_coco(const py::iterable& segmentations, const ImageSize& size) {
  MaskTargets masks(size);
  for (const py::handle segmentation : segmentations) {
    const std::string what = join(kFromCoco, masks.size());
    if (py::isinstance<py::dict>(segmentation)) {
      masks.add(rle_of(segmentation.cast<py::dict>(), what));
      continue;
    }
    check<TypeError>(py::isinstance<py::list>(segmentation) || py::isinstance<py::tuple>(segmentation), what,
                     " is a ", type_name(segmentation),
                     "; expected a list of polygons or a dict with size and counts");
    Polygons polygons;
    for (const py::handle polygon : segmentation)
      polygons.push_back(numbers_of(polygon, join(what, ": polygon ", polygons.size())));
    masks.add(std::move(polygons));
  }
  return masks;
}

MaskTargets from_bitmaps(const at::Tensor& bitmaps) {
  check<ValueError>(bitmaps.dim() == 3, "[MaskTargets.from_bitmaps] bitmaps have shape ", bitmaps.sizes(),
                    "; expected [G, H, W]");
  MaskTargets masks({bitmaps.size(1), bitmaps.size(2)});
  const at::Tensor plain = bitmaps.cpu();
  for (int64_t i = 0; i < plain.size(0); ++i) masks.add(rle_encode(plain[i]));
  return masks;
}

py::list coco_of(const std::vector<Rle>& masks) {
  py::list out;
  for (const Rle& rle : masks) {
    py::dict item;
    py::list size;  // as JSON and pycocotools have it
    size.append(rle.size.height);
    size.append(rle.size.width);
    item["size"] = size;
    item["counts"] = rle.compressed();
    out.append(item);
  }
  return out;
}

at::Tensor boxes_of(const MaskTargets& self) {
  const auto boxes = self.boxes();
  at::Tensor out = at::empty({self.size(), 4}, at::kFloat);
  for (size_t i = 0; i < boxes.size(); ++i)
    std::copy(boxes[i].begin(), boxes[i].end(), out.mutable_data_ptr<float>() + 4 * i);
  return out;
}

std::string repr(const MaskTargets& self) {
  int64_t polygons = 0;
  for (const auto& item : self.items()) polygons += std::holds_alternative<Polygons>(item);
  return join("MaskTargets(", self.size(), " masks of ", self.image_size().height, "x",
              self.image_size().width, ": ", polygons, " of polygons, ", self.size() - polygons,
              " of run lengths)");
}

template <class T>
py::bytes bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

template <class T>
std::vector<T> values_of(const py::bytes& bytes) {
  const std::string_view view = bytes;
  std::vector<T> values(view.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), view.data(), values.size() * sizeof(T));
  return values;
}

/** Three buffers: of each mask its number of polygons and their lengths, or minus the number of run lengths;
 * all coordinates; all run lengths. */
py::tuple state_of(const MaskTargets& self) {
  std::vector<int64_t> layout;
  std::vector<double> coordinates;
  std::vector<uint32_t> counts;
  for (const auto& item : self.items()) {
    if (const Rle* rle = std::get_if<Rle>(&item)) {
      layout.push_back(-static_cast<int64_t>(rle->counts.size()));
      counts.insert(counts.end(), rle->counts.begin(), rle->counts.end());
      continue;
    }
    const Polygons& polygons = std::get<Polygons>(item);
    layout.push_back(static_cast<int64_t>(polygons.size()));
    for (const auto& polygon : polygons) {
      layout.push_back(static_cast<int64_t>(polygon.size()));
      coordinates.insert(coordinates.end(), polygon.begin(), polygon.end());
    }
  }
  return py::make_tuple(self.image_size(), bytes_of(layout), bytes_of(coordinates), bytes_of(counts));
}

/** Takes the next `size` values of `from`. */
template <class T>
std::vector<T> take(const std::vector<T>& from, size_t& at, int64_t size) {
  check<ValueError>(size >= 0 && static_cast<size_t>(size) <= from.size() - at,
                    "[MaskTargets] the pickled state is damaged");
  at += size;
  return {from.begin() + static_cast<int64_t>(at) - size, from.begin() + static_cast<int64_t>(at)};
}

MaskTargets from_state(const py::tuple& state) {
  check<ValueError>(state.size() == 4, "[MaskTargets] the pickled state is damaged");
  const auto layout = values_of<int64_t>(state[1].cast<py::bytes>());
  const auto coordinates = values_of<double>(state[2].cast<py::bytes>());
  const auto counts = values_of<uint32_t>(state[3].cast<py::bytes>());
  MaskTargets masks(state[0].cast<ImageSize>());
  size_t next = 0, coordinate = 0, count = 0;
  while (next < layout.size()) {
    const int64_t parts = layout[next++];
    if (parts <= 0) {
      check<ValueError>(parts > std::numeric_limits<int64_t>::min(),
                        "[MaskTargets] the pickled state is damaged");
      masks.add(Rle{masks.image_size(), take(counts, count, -parts)});
      continue;
    }
    Polygons polygons;
    for (const int64_t length : take(layout, next, parts))
      polygons.push_back(take(coordinates, coordinate, length));
    masks.add(std::move(polygons));
  }
  return masks;
}

void bind_class(py::module_& m) {
  py::class_<MaskTargets> type(m, "MaskTargets",
                               "Ground-truth masks of one image, kept as polygons and run lengths.");
  type.def(py::init<const ImageSize&>(), py::arg("image_size"), "No masks yet of an image (height, width).")
      .def_static("from_coco", &from_coco, py::arg("segmentations"), py::arg("image_size"),
                  "Masks of COCO segmentations: each a list of polygons, or a dict with size and counts.")
      .def_static("from_bitmaps", &from_bitmaps, py::arg("bitmaps"),
                  "Masks of a bool or uint8 tensor [G, H, W]; anything but 0 is inside.", ReleaseGil())
      .def_property_readonly("image_size", &MaskTargets::image_size, "Height and width in pixels.")
      .def("__len__", &MaskTargets::size)
      .def("resized", &MaskTargets::resized, py::arg("size"),
           "Masks of the resized image: polygons in double, run lengths by Pillow's nearest neighbour.",
           ReleaseGil())
      .def("flipped", &MaskTargets::flipped, "Masks of the mirrored image.", ReleaseGil())
      .def(
          "cropped",
          [](const MaskTargets& self, int64_t x, int64_t y, const ImageSize& size) {
            return self.cropped({x, y, size.width, size.height});
          },
          py::arg("x"), py::arg("y"), py::arg("size"),
          "Masks of the part of the image of `size` (height, width) whose top left pixel is x, y.",
          ReleaseGil())
      .def("select", &MaskTargets::select, py::arg("index"), "Masks at a list of indices, in that order.")
      .def("areas", &MaskTargets::areas, "Pixels inside each mask, on the image.", ReleaseGil())
      .def("boxes", &boxes_of,
           "Tight boxes [G, 4] float32 x1, y1, x2, y2: of the points of polygons, of the pixels of run "
           "lengths.")
      .def(
          "rle",
          [](const MaskTargets& self, const std::optional<ImageSize>& canvas) {
            std::vector<Rle> masks;
            {
              py::gil_scoped_release release;
              masks = self.rle(canvas.value_or(self.image_size()));
            }
            return coco_of(masks);
          },
          py::arg("canvas") = py::none(),
          "COCO run lengths, dicts of size and compressed counts, on a canvas (default: the image).")
      .def("__repr__", &repr)
      .def(
          "__eq__", [](const MaskTargets& self, const MaskTargets& other) { return self == other; },
          py::is_operator())
      .def("__copy__", [](const MaskTargets& self) { return MaskTargets(self); })
      .def(
          "__deepcopy__", [](const MaskTargets& self, const py::dict&) { return MaskTargets(self); },
          py::arg("memo"))
      .def(py::pickle(&state_of, &from_state));
  type.attr("__hash__") = py::none();
}

}  // namespace

void init_mask_targets(py::module_& m) {
  bind_class(m);
  py::class_<RasterizedMasks>(m, "RasterizedMasks", "Samples, centers and areas of masks on a canvas.")
      .def_readonly("sampled", &RasterizedMasks::sampled)
      .def_readonly("centers", &RasterizedMasks::centers)
      .def_readonly("areas", &RasterizedMasks::areas);
  m.def("rasterize", &rasterize, py::arg("masks"), py::arg("canvas"), py::arg("stride"), py::arg("offset"),
        ReleaseGil());
  m.def("rasterize_in_boxes", &rasterize_in_boxes, py::arg("masks"), py::arg("boxes"), py::arg("size"),
        ReleaseGil());
  m.def("smallest_class_map", &smallest_class_map, py::arg("masks"), py::arg("labels"), py::arg("canvas"),
        py::arg("stride"), py::arg("offset"), ReleaseGil());
  m.def("class_map", &class_map, py::arg("masks"), py::arg("labels"), ReleaseGil());
  m.def("resize_nearest", &resize_nearest, py::arg("map"), py::arg("size"), ReleaseGil());
}

}  // namespace instseg
