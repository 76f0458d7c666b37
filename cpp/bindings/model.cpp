// SPDX-License-Identifier: Apache-2.0
#include "instseg/model.h"

#include "casters.h"
#include "instseg/model_file.h"
#include "instseg/predictor.h"

namespace instseg {

namespace {

NamedTensors items_of(const torch::OrderedDict<std::string, at::Tensor>& tensors) {
  NamedTensors out;
  for (const auto& item : tensors) out.emplace_back(item.key(), item.value());
  return out;
}

/** Runs `compute` without the GIL, then converts its tensors. */
template <class Compute>
py::dict computed(const Compute& compute) {
  NamedTensors tensors;
  {
    py::gil_scoped_release release;
    tensors = compute();
  }
  return to_dict(tensors);
}

void bind_model(py::module_& m) {
  py::class_<Model, std::shared_ptr<Model>>(m, "Model",
                                            "The C++ model; instseg.Model is its torch.nn.Module.")
      .def_property_readonly("config", [](const Model& self) { return ModelConfig(self.config()); })
      .def("named_parameters", [](const Model& self) { return to_dict(items_of(self.named_parameters())); })
      .def("named_buffers", [](const Model& self) { return to_dict(items_of(self.named_buffers())); })
      .def(
          "train", [](Model& self, bool on) { self.train(on); }, py::arg("on") = true, ReleaseGil())
      .def_property_readonly("training", [](const Model& self) { return self.is_training(); })
      .def(
          "losses",
          [](Model& self, const ImageBatch& batch, const std::vector<Targets>& targets) {
            return computed([&] { return self.losses(batch, targets); });
          },
          py::arg("batch"), py::arg("targets"))
      .def("detect", &Model::detect, py::arg("batch"), ReleaseGil())
      .def("lower", &Model::lower, py::arg("dtype"), ReleaseGil())
      .def(
          "intermediates",
          [](Model& self, const ImageBatch& batch) {
            return computed([&] { return self.intermediates(batch); });
          },
          py::arg("batch"))
      .def(
          "set_reduce_mean",
          [](Model& self, ReduceMean fn, int64_t parts, int64_t micro_batches) {
            self.set_reduce_mean(
                fn ? std::move(fn) : [](const at::Tensor& value) { return value; }, parts, micro_batches);
          },
          py::arg("fn"), py::arg("parts") = 1, py::arg("micro_batches") = 1)
      .def("normalizers", &Model::normalizers, py::arg("batch"), py::arg("targets"), ReleaseGil())
      .def("sync_batch_norm", &Model::sync_batch_norm, py::arg("sum"));
  m.def("make_model", &make_model, py::arg("config"), ReleaseGil());
}

void bind_model_file(py::module_& m) {
  m.attr("MODEL_FILE_VERSION") = kModelFileVersion;
  py::class_<ModelFile>(m, "ModelFile", "Content of a model file.")
      .def_readonly("config", &ModelFile::config)
      .def_readonly("summary", &ModelFile::summary)
      .def_property_readonly("tensors", [](const ModelFile& self) { return to_dict(self.tensors); })
      .def_readonly("warnings", &ModelFile::warnings);
  m.def("read_model_file", &read_model_file, py::arg("path"), ReleaseGil());
  m.def(
      "write_model_file",
      [](const std::string& path, const ModelConfig& config, const py::dict& tensors,
         const std::string& summary) {
        const ModelFile file{config, summary, to_named_tensors(tensors), {}};
        py::gil_scoped_release release;
        write_model_file(path, file);
      },
      py::arg("path"), py::arg("config"), py::arg("tensors"), py::arg("summary") = "{}");
  m.def(
      "load_state",
      [](Model& model, const py::dict& tensors) {
        const NamedTensors state = to_named_tensors(tensors);
        py::gil_scoped_release release;
        load_state(model, state);
      },
      py::arg("model"), py::arg("tensors"));
  m.def(
      "load_model",
      [](const std::string& path) {
        std::vector<std::string> warnings;
        auto model = load_model(path, &warnings);
        return std::pair(model, warnings);
      },
      py::arg("path"), ReleaseGil());
  m.def("save_model", &save_model, py::arg("path"), py::arg("model"), py::arg("summary") = "{}",
        py::arg("dtype") = "float32", ReleaseGil());
}

PredictorOptions make_options(std::string device, std::string precision, double score_threshold,
                              int64_t max_detections, int64_t short_side, int64_t long_side) {
  return {std::move(device), std::move(precision), score_threshold, max_detections, short_side, long_side};
}

void bind_predictor(py::module_& m) {
  const PredictorOptions defaults;
  py::class_<PredictorOptions>(m, "PredictorOptions", "Negative or zero numbers: as the model file says.")
      .def(py::init(&make_options), py::kw_only(), py::arg("device") = defaults.device,
           py::arg("precision") = defaults.precision, py::arg("score_threshold") = defaults.score_threshold,
           py::arg("max_detections") = defaults.max_detections, py::arg("short_side") = defaults.short_side,
           py::arg("long_side") = defaults.long_side)
      .def_readwrite("device", &PredictorOptions::device)
      .def_readwrite("precision", &PredictorOptions::precision)
      .def_readwrite("score_threshold", &PredictorOptions::score_threshold)
      .def_readwrite("max_detections", &PredictorOptions::max_detections)
      .def_readwrite("short_side", &PredictorOptions::short_side)
      .def_readwrite("long_side", &PredictorOptions::long_side)
      .def("check", &PredictorOptions::check);

  using Images = std::vector<at::Tensor>;
  py::class_<Predictor>(m, "Predictor", "One model ready for inference; for one thread at a time.")
      .def(py::init<const std::string&, const PredictorOptions&>(), py::arg("model_file"),
           py::arg("options") = defaults, ReleaseGil())
      .def(py::init<const Model&, const PredictorOptions&>(), py::arg("model"), py::arg("options") = defaults,
           ReleaseGil())
      .def("__call__", py::overload_cast<const Images&>(&Predictor::operator()), py::arg("images"),
           ReleaseGil())
      .def("detect", &Predictor::detect, py::arg("batch"), ReleaseGil())
      .def_property_readonly("config", [](const Predictor& self) { return ModelConfig(self.config()); })
      .def_property_readonly("warnings", &Predictor::warnings)
      .def_property_readonly("last_times", [](const Predictor& self) {
        const StageTimes& times = self.last_times();
        py::dict out;
        out["preprocess"] = times.preprocess;
        out["network"] = times.network;
        out["postprocess"] = times.postprocess;
        return out;
      });
}

}  // namespace

void init_model(py::module_& m) {
  bind_model(m);
  bind_model_file(m);
  bind_predictor(m);
}

}  // namespace instseg
