// SPDX-License-Identifier: Apache-2.0
#include "instseg/model_file.h"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/sum.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_map>
#include <utility>

#include "instseg/error.h"
#include "io/model_file_content.h"
#include "io/safetensors.h"
#include "io/strict_json.h"

namespace instseg {
namespace {

constexpr size_t kNamesShown = 5;

// "a, b, c and 7 more".
std::string first_names(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kNamesShown); ++i) text += (i == 0 ? "" : ", ") + names[i];
  if (names.size() > kNamesShown) text += join(" and ", names.size() - kNamesShown, " more");
  return text;
}

void check_version(const std::string& text, const std::string& where) {
  int version = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version);
  check<ValueError>(error == std::errc() && end == text.data() + text.size() && version >= 1, where,
                    "format_version '", printable(text), "' is not a positive integer");
  check<ValueError>(version <= kModelFileVersion, where, "written in format version ", version,
                    ", this instseg reads up to ", kModelFileVersion, "; upgrade instseg to read it");
}

std::string metadata_of(const Safetensors& file, const std::string& key, const std::string& where) {
  const auto found = file.metadata.find(key);
  check<ValueError>(found != file.metadata.end(), where, "the metadata have no '", key, "'");
  return found->second;
}

ModelConfig parse_config(const std::string& text, const std::string& where) {
  try {
    ModelConfig config = ModelConfig::from_json(text);
    config.check();
    return config;
  } catch (const ValueError& error) {
    throw ValueError(join(where, "config: ", error.what()));
  }
}

void check_summary(const std::string& summary, const std::string& where) {
  const auto json = parse_json(summary, where + "summary: ");
  check<ValueError>(json.is_object(), where, "summary is not a JSON object");
}

bool all_finite(const at::Tensor& tensor) {
  if (!tensor.is_floating_point()) return true;
  // One pass without temporaries; only a sum that overflows needs the exact test.
  return std::isfinite(at::sum(tensor, at::kDouble).item<double>()) ||
         at::isfinite(tensor).all().item<bool>();
}

NamedTensors tensors_of(const Model& model) {
  NamedTensors state;
  for (const auto& item : model.named_parameters()) state.emplace_back(item.key(), item.value());
  for (const auto& item : model.named_buffers()) state.emplace_back(item.key(), item.value());
  return state;
}

// Rounded to float16. NaN and infinity stay what they are; finite values must not become infinite.
at::Tensor rounded_to_half(const std::string& name, const at::Tensor& tensor, const std::string& where) {
  at::Tensor half = tensor.to(at::kHalf);
  if (all_finite(half)) return half;
  const at::Tensor lost =
      tensor.masked_select(at::isfinite(tensor).logical_and(at::isfinite(half).logical_not()));
  check<ValueError>(lost.numel() == 0, where, "parameter '", name, "' holds ",
                    lost.numel() == 0 ? 0.0 : lost.select(0, 0).item<double>(),
                    ", beyond the 65504 that float16 can hold; save as float32");
  return half;
}

std::string shape_text(const at::Tensor& tensor) {
  return join(c10::toString(tensor.scalar_type()), tensor.sizes());
}

// Names that keep `tensors` from being loaded into a model, by kind.
struct Mismatch {
  std::vector<std::string> missing, unexpected, twice, shape;

  std::string text() const {
    std::string all;
    const auto add = [&](const char* kind, const std::vector<std::string>& names) {
      if (!names.empty())
        all += join(all.empty() ? "" : "; ", names.size(), " ", kind, ": ", first_names(names));
    };
    add("missing", missing);
    add("unexpected", unexpected);
    add("given twice", twice);
    add("of wrong shape or kind", shape);
    return all;
  }
};

void copy_state(Model& model, const NamedTensors& tensors, const std::string& where) {
  std::unordered_map<std::string, at::Tensor> given;
  Mismatch mismatch;
  for (const auto& [name, tensor] : tensors) {
    if (!given.emplace(name, tensor).second) mismatch.twice.push_back(printable(name));
  }
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs;
  for (auto& [name, own] : tensors_of(model)) {
    const auto found = given.find(name);
    if (found == given.end()) {
      mismatch.missing.push_back(name);
      continue;
    }
    const at::Tensor& value = found->second;
    if (value.sizes() == own.sizes() && value.is_floating_point() == own.is_floating_point()) {
      pairs.emplace_back(own, value);
    } else {
      mismatch.shape.push_back(join(name, " (", shape_text(value), ", the model has ", shape_text(own), ")"));
    }
    given.erase(found);
  }
  for (const auto& [name, tensor] : tensors) {
    if (given.erase(name) > 0) mismatch.unexpected.push_back(printable(name));
  }
  const std::string text = mismatch.text();
  check<ValueError>(text.empty(), where, "the tensors do not fit the model: ", text);
  // Nothing is copied unless everything fits.
  const c10::NoGradGuard no_grad;
  for (auto& [own, value] : pairs) own.copy_(value);
}

}  // namespace

ModelFile model_file_content(Safetensors file, const std::string& path) {
  const std::string where = join("[read_model_file] ", path, ": ");
  const auto format = file.metadata.find("format");
  check<ValueError>(format != file.metadata.end() && format->second == "instseg", where,
                    "these are tensors without a model configuration, not an instseg model; "
                    "make one with `instseg convert`");
  check_version(metadata_of(file, "format_version", where), where);
  ModelFile result;
  result.config = parse_config(metadata_of(file, "config", where), where);
  const auto summary = file.metadata.find("summary");
  result.summary = summary == file.metadata.end() ? "{}" : summary->second;
  check_summary(result.summary, where);
  result.tensors = std::move(file.tensors);

  std::vector<std::string> broken;
  for (const auto& [name, tensor] : result.tensors) {
    if (!all_finite(tensor)) broken.push_back(printable(name));
  }
  if (!broken.empty()) {
    result.warnings.push_back(join(path, ": ", broken.size(), " of ", result.tensors.size(),
                                   " tensors contain NaN or infinite values: ", first_names(broken)));
  }
  return result;
}

ModelFile read_model_file(const std::string& path) {
  return model_file_content(read_safetensors(path), path);
}

void write_model_file(const std::string& path, const ModelFile& file) {
  const std::string where = join("[write_model_file] ", path, ": ");
  file.config.check();
  check_summary(file.summary, where);
  write_safetensors(path,
                    {{"format", "instseg"},
                     {"format_version", std::to_string(kModelFileVersion)},
                     {"config", file.config.to_json()},
                     {"summary", file.summary}},
                    file.tensors);
}

NamedTensors state_of(const Model& model) {
  NamedTensors state = tensors_of(model);
  for (auto& [name, tensor] : state) tensor = tensor.detach();
  return state;
}

void load_state(Model& model, const NamedTensors& tensors) { copy_state(model, tensors, "[load_state] "); }

std::shared_ptr<Model> load_model(const std::string& path, std::vector<std::string>* warnings) {
  ModelFile file = read_model_file(path);
  std::shared_ptr<Model> model = make_model(file.config);
  copy_state(*model, file.tensors, join("[load_model] ", path, ": "));
  if (warnings != nullptr) *warnings = std::move(file.warnings);
  return model;
}

void save_model(const std::string& path, const Model& model, const std::string& summary,
                const std::string& dtype) {
  const std::string where = join("[save_model] ", path, ": ");
  check<ValueError>(dtype == "float32" || dtype == "float16", where, "dtype '", dtype,
                    "' is not one of float32, float16");
  NamedTensors state = state_of(model);
  if (dtype == "float16") {
    const size_t parameters = model.named_parameters().size();  // buffers come behind them
    for (size_t i = 0; i < parameters; ++i) {
      auto& [name, tensor] = state[i];
      if (tensor.is_floating_point()) tensor = rounded_to_half(name, tensor, where);
    }
  }
  write_model_file(path, {model.config(), summary, std::move(state), {}});
}

}  // namespace instseg
