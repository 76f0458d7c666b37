// SPDX-License-Identifier: Apache-2.0
#include "report.h"

#include <cstdio>
#include <filesystem>

namespace instseg::apps {
namespace {

std::string format(const char* pattern, auto... values) {
  char buffer[256];
  std::snprintf(buffer, sizeof(buffer), pattern, values...);
  return buffer;
}

std::string list(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ", ") + part;
  return text.empty() ? "none" : text;
}

/** Dataset id of a label: the label itself when the model has no ids. */
int64_t category_id(const ModelConfig& config, int64_t label) {
  const auto index = static_cast<size_t>(label);
  return index < config.category_ids.size() ? config.category_ids[index] : label;
}

/** Raw pointers into the CPU tensors of one result. */
struct Columns {
  at::Tensor box_rows, score_rows, label_rows;
  const float* boxes;
  const float* scores;
  const int64_t* labels;

  explicit Columns(const Instances& instances)
      : box_rows(instances.boxes.contiguous()),
        score_rows(instances.scores.contiguous()),
        label_rows(instances.labels.contiguous()),
        boxes(box_rows.const_data_ptr<float>()),
        scores(score_rows.const_data_ptr<float>()),
        labels(label_rows.const_data_ptr<int64_t>()) {}
};

nlohmann::ordered_json detections_of(const ModelConfig& config, const Instances& instances) {
  auto result = nlohmann::ordered_json::array();
  if (instances.size() == 0) return result;
  const Columns rows(instances);
  for (int64_t i = 0; i < instances.size(); ++i) {
    const float* box = rows.boxes + 4 * i;
    result.push_back({{"class", class_name(config, rows.labels[i])},
                      {"label", rows.labels[i]},
                      {"category_id", category_id(config, rows.labels[i])},
                      {"score", static_cast<double>(rows.scores[i])},
                      {"box", {double{box[0]}, double{box[1]}, double{box[2]}, double{box[3]}}}});
  }
  return result;
}

/** Adds the mask of each detection, as COCO's compressed run lengths, and its pixels. */
void add_masks(nlohmann::ordered_json& detections, const Masks& masks) {
  if (!masks.defined()) return;
  const std::vector<Rle> rles = masks.rle();
  for (size_t i = 0; i < rles.size(); ++i) {
    const Rle& rle = rles[i];
    detections[i]["mask"] = {{"size", {rle.size.height, rle.size.width}}, {"counts", rle.compressed()}};
    detections[i]["area"] = rle.area();
  }
}

}  // namespace

nlohmann::ordered_json image_entry(const ModelConfig& config, const Detected& image, bool masks) {
  auto detections = detections_of(config, image.instances);
  if (masks) add_masks(detections, image.instances.masks);
  return {{"file", image.file},
          {"width", image.instances.image_size.width},
          {"height", image.instances.image_size.height},
          {"detections", std::move(detections)}};
}

nlohmann::ordered_json detections_document(const std::string& model, nlohmann::ordered_json images,
                                           const std::vector<Failure>& failures) {
  nlohmann::ordered_json document;
  document["model"] = std::filesystem::path(model).filename().string();
  document["images"] = std::move(images);
  document["errors"] = nlohmann::ordered_json::array();
  for (const Failure& failure : failures) {
    document["errors"].push_back({{"file", failure.file}, {"error", failure.error}});
  }
  return document;
}

std::string class_name(const ModelConfig& config, int64_t label) {
  const auto index = static_cast<size_t>(label);
  return index < config.class_names.size() ? config.class_names[index] : std::to_string(label);
}

std::string image_text(const ModelConfig& config, const Detected& image, bool each) {
  const Instances& found = image.instances;
  std::string text =
      image.file + format("  %ldx%ld  %ld detection%s\n", static_cast<long>(found.image_size.width),
                          static_cast<long>(found.image_size.height), static_cast<long>(found.size()),
                          found.size() == 1 ? "" : "s");
  if (!each || found.size() == 0) return text;
  const Columns rows(found);
  for (int64_t i = 0; i < found.size(); ++i) {
    const float* box = rows.boxes + 4 * i;
    text += "  " + class_name(config, rows.labels[i]) +
            format("  %.3f  [%.1f %.1f %.1f %.1f]\n", rows.scores[i], box[0], box[1], box[2], box[3]);
  }
  return text;
}

std::string timing_text(const Timings& timings) {
  const double n = timings.images > 0 ? static_cast<double>(timings.images) : 1;
  return format(
      "ms per image: decode %.1f, preprocess %.1f, network %.1f, postprocess %.1f, draw and write %.1f\n",
      timings.decode / n, timings.preprocess / n, timings.network / n, timings.postprocess / n,
      timings.draw / n);
}

std::string version_text(const BuildInfo& info) {
  std::string cuda = "not built in";
  if (info.cuda_kernels) cuda = "for architectures " + list(info.cuda_archs);
  return "instseg " + info.version + "\nlibtorch: " + info.torch_version + "\ncompiler: " + info.compiler +
         "\nCUDA kernels: " + cuda + "\nGPU usable now: " + (info.cuda_available ? "yes" : "no") +
         "\nimage decoders: " + list(info.image_decoders) + "\ninstruction set: " + info.cpu_capability +
         (info.cpu_bf16 ? ", native bfloat16" : ", no native bfloat16") + "\n";
}

}  // namespace instseg::apps
