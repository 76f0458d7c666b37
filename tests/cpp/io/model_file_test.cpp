// SPDX-License-Identifier: Apache-2.0
#include "instseg/model_file.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <string>

#include "instseg/error.h"
#include "instseg/presets.h"
#include "io/safetensors.h"
#include "io/safetensors_bytes.h"

namespace instseg {
namespace {

using instseg::testing::TemporaryFolder;

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ValueError& error) {
    return error.what();
  }
  return "no error";
}

ModelFile tiny_file() {
  ModelFile file;
  file.config.num_classes = 2;
  file.config.class_names = {"cell", "na\xC3\xAFve \"cell\""};
  file.config.input.short_side = 320;
  file.summary = R"({"epochs": 2})";
  file.tensors = {{"head.scales.0", at::ones({1})},
                  {"neck.lateral3.weight", at::arange(6, at::kFloat).view({2, 3})}};
  return file;
}

// A model whose tensors are few; nothing of it is ever run.
class TinyModel : public Model {
 public:
  explicit TinyModel(const ModelConfig& config) : Model(config) {
    register_parameter("weight", at::zeros({2, 3}));
    register_parameter("bias", at::zeros({2}));
    register_buffer("count", at::zeros({}, at::kLong));
  }
  NamedTensors losses(const ImageBatch&, const std::vector<Targets>&) override { return {}; }
  at::Tensor normalizers(const ImageBatch&, const std::vector<Targets>&) override { return {}; }
  std::vector<Instances> detect(const ImageBatch&) override { return {}; }
  NamedTensors intermediates(const ImageBatch&) override { return {}; }
  void lower(at::ScalarType) override {}
};

NamedTensors tiny_state() {
  return {{"weight", at::arange(6, at::kFloat).view({2, 3})},
          {"bias", at::ones({2})},
          {"count", at::full({}, 7, at::kLong)}};
}

std::map<std::string, std::string> valid_metadata() {
  return {
      {"format", "instseg"}, {"format_version", "1"}, {"config", ModelConfig().to_json()}, {"summary", "{}"}};
}

// The message, without file name, for a file with changed metadata.
std::string metadata_error(const std::function<void(std::map<std::string, std::string>&)>& change) {
  const TemporaryFolder folder;
  const std::string path = folder / "m.safetensors";
  auto metadata = valid_metadata();
  change(metadata);
  write_safetensors(path, metadata, {});
  const std::string text = error_of([&] { read_model_file(path); });
  const std::string prefix = "[read_model_file] " + path + ": ";
  return text.rfind(prefix, 0) == 0 ? text.substr(prefix.size()) : text;
}

// ---- Round trip ----

TEST(ModelFile, RoundTrip) {
  const TemporaryFolder folder;
  const ModelFile file = tiny_file();
  write_model_file(folder / "m.safetensors", file);
  const ModelFile read = read_model_file(folder / "m.safetensors");
  EXPECT_EQ(read.config, file.config);
  EXPECT_EQ(read.summary, file.summary);
  EXPECT_TRUE(read.warnings.empty());
  ASSERT_EQ(read.tensors.size(), 2u);
  EXPECT_EQ(read.tensors[1].first, "neck.lateral3.weight");
  EXPECT_TRUE(at::equal(read.tensors[1].second, file.tensors[1].second));
}

TEST(ModelFile, WritingTwiceGivesTheSameBytes) {
  const TemporaryFolder folder;
  write_model_file(folder / "a", tiny_file());
  write_model_file(folder / "b", read_model_file(folder / "a"));
  EXPECT_EQ(testing::read_bytes(folder / "a"), testing::read_bytes(folder / "b"));
}

TEST(ModelFile, MetadataAreAsDocumented) {
  const TemporaryFolder folder;
  write_model_file(folder / "a", tiny_file());
  const auto metadata = read_safetensors(folder / "a").metadata;
  EXPECT_EQ(metadata.size(), 4u);
  EXPECT_EQ(metadata.at("format"), "instseg");
  EXPECT_EQ(metadata.at("format_version"), "1");
  EXPECT_EQ(metadata.at("config"), tiny_file().config.to_json());
  EXPECT_EQ(metadata.at("summary"), R"({"epochs": 2})");
}

TEST(ModelFile, Version1KeepsLoading) {
  // Committed when version 1 was new. Never regenerate it: add a file for each new version.
  const ModelFile file = read_model_file(TEST_DATA "/model_files/v1_tiny.safetensors");
  EXPECT_EQ(file.summary, R"({"epochs":2,"box_ap":0.5})");
  EXPECT_EQ(file.config.num_classes, 2);
  EXPECT_EQ(file.config.class_names, (std::vector<std::string>{"nucleus", "debris \xC2\xB5"}));
  EXPECT_EQ(file.config.category_ids, (std::vector<int64_t>{1, 5}));
  EXPECT_EQ(file.config.input.mean, (std::vector<double>{127, 127.5, 0.1}));
  EXPECT_EQ(file.config.backbone.name, "efficientnet_lite0");
  EXPECT_EQ(file.config.neck.max_level, 5);
  EXPECT_EQ(file.config.head.norm, "bn");
  EXPECT_EQ(file.config.targets.sizes_of_interest, (std::vector<int64_t>{32, 96}));
  EXPECT_EQ(file.config.loss.cls_normalizer, "moving");
  EXPECT_EQ(file.config.post.max_detections, 250);
  ASSERT_EQ(file.tensors.size(), 4u);
  EXPECT_EQ(file.tensors[0].first, "neck.lateral3.weight");
  EXPECT_TRUE(at::equal(file.tensors[0].second, at::arange(6, at::kFloat).view({2, 3, 1, 1}) / 4));
  EXPECT_EQ(file.tensors[1].first, "head.cls_tower.0.norm.0.num_batches_tracked");
  EXPECT_TRUE(at::equal(file.tensors[1].second, at::full({}, 12345678901, at::kLong)));
  EXPECT_TRUE(at::equal(file.tensors[2].second, at::arange(3, at::kHalf)));
  EXPECT_TRUE(at::equal(file.tensors[3].second, at::arange(-1, 2, at::kBFloat16)));
}

// ---- Metadata ----

TEST(ModelFileMalformed, PlainSafetensors) {
  const std::string advice =
      "these are tensors without a model configuration, not an instseg model; make one with `instseg "
      "convert`";
  EXPECT_EQ(metadata_error([](auto& m) { m.clear(); }), advice);
  EXPECT_EQ(metadata_error([](auto& m) { m["format"] = "pt"; }), advice);
}

TEST(ModelFileMalformed, NewerVersion) {
  EXPECT_EQ(metadata_error([](auto& m) { m["format_version"] = "2"; }),
            "written in format version 2, this instseg reads up to 1; upgrade instseg to read it");
}

TEST(ModelFileMalformed, VersionThatIsNoNumber) {
  for (const char* version : {"", "one", "1.0", "1 ", "0", "-1", "99999999999999999999"}) {
    EXPECT_EQ(metadata_error([&](auto& m) { m["format_version"] = version; }),
              join("format_version '", version, "' is not a positive integer"));
  }
}

TEST(ModelFileMalformed, MissingKeys) {
  EXPECT_EQ(metadata_error([](auto& m) { m.erase("format_version"); }),
            "the metadata have no 'format_version'");
  EXPECT_EQ(metadata_error([](auto& m) { m.erase("config"); }), "the metadata have no 'config'");
}

TEST(ModelFile, SummaryMayBeMissing) {
  EXPECT_EQ(metadata_error([](auto& m) { m.erase("summary"); }), "no error");
}

TEST(ModelFileMalformed, ConfigThatIsNoJson) {
  EXPECT_EQ(metadata_error([](auto& m) {
              m["config"] = "{";
            }).find("config: [ModelConfig::from_json] not valid JSON at byte 1: "),
            0u);
}

TEST(ModelFileMalformed, ConfigWithUnknownField) {
  EXPECT_EQ(metadata_error([](auto& m) { m["config"] = R"({"hed": {}})"; }),
            "config: [ModelConfig] hed: unknown field; did you mean 'head'?");
}

TEST(ModelFileMalformed, ConfigThatIsInvalid) {
  EXPECT_EQ(metadata_error([](auto& m) { m["config"] = R"({"head": {"norm": "ln"}})"; }),
            "config: [ModelConfig] head.norm: 'ln' is not one of gn, bn, none");
}

TEST(ModelFileMalformed, SummaryThatIsNoObject) {
  EXPECT_EQ(metadata_error([](auto& m) { m["summary"] = "3"; }), "summary is not a JSON object");
  EXPECT_EQ(metadata_error([](auto& m) { m["summary"] = "{,}"; }).find("summary: not valid JSON at byte 2: "),
            0u);
}

TEST(ModelFileMalformed, ContainerErrorsNameTheFile) {
  const TemporaryFolder folder;
  testing::write_bytes(folder / "m", "123");
  EXPECT_EQ(error_of([&] { read_model_file(folder / "m"); }),
            "[read_safetensors] " + folder / "m" + ": truncated: 3 bytes, the header length alone has 8");
}

TEST(ModelFile, WritingInvalidContentIsRefused) {
  const TemporaryFolder folder;
  ModelFile file = tiny_file();
  file.summary = "[]";
  EXPECT_EQ(error_of([&] { write_model_file(folder / "m", file); }),
            "[write_model_file] " + folder / "m" + ": summary is not a JSON object");
  file = tiny_file();
  file.config.num_classes = 0;
  EXPECT_EQ(error_of([&] { write_model_file(folder / "m", file); }),
            "[ModelConfig] num_classes: 0 is not within 1..100000");
  EXPECT_FALSE(std::filesystem::exists(folder / "m"));
}

// ---- Weights that are not numbers ----

TEST(ModelFileWarnings, NanAndInfinityNameTheTensors) {
  const TemporaryFolder folder;
  ModelFile file = tiny_file();
  const double infinity = std::numeric_limits<double>::infinity();
  file.tensors[0].second = at::full({1}, std::numeric_limits<double>::quiet_NaN(), at::kFloat);
  at::Tensor both = at::zeros({2}, at::kHalf);
  both[0] = infinity;
  both[1] = -infinity;
  file.tensors.emplace_back("both", both);
  write_model_file(folder / "m", file);
  EXPECT_EQ(read_model_file(folder / "m").warnings,
            (std::vector<std::string>{
                folder / "m" + ": 2 of 3 tensors contain NaN or infinite values: head.scales.0, both"}));
}

TEST(ModelFileWarnings, LargeFiniteValuesAreFine) {
  const TemporaryFolder folder;
  ModelFile file = tiny_file();
  // The sum overflows, each value is finite.
  file.tensors.emplace_back("large", at::full({4}, std::numeric_limits<double>::max(), at::kDouble));
  file.tensors.emplace_back("half", at::full({4}, 65504, at::kHalf));
  write_model_file(folder / "m", file);
  EXPECT_TRUE(read_model_file(folder / "m").warnings.empty());
}

TEST(ModelFileWarnings, ManyTensorsAreCounted) {
  const TemporaryFolder folder;
  ModelFile file = tiny_file();
  file.tensors.clear();
  for (char name = 'a'; name <= 'h'; ++name) {
    file.tensors.emplace_back(std::string(1, name),
                              at::full({1}, std::numeric_limits<double>::infinity(), at::kFloat));
  }
  write_model_file(folder / "m", file);
  EXPECT_EQ(read_model_file(folder / "m").warnings[0],
            folder / "m" + ": 8 of 8 tensors contain NaN or infinite values: a, b, c, d, e and 3 more");
}

// ---- Models ----

TEST(LoadState, CopiesValuesAndKeepsTheTensors) {
  TinyModel model{ModelConfig()};
  const at::Tensor weight = model.named_parameters()["weight"];
  load_state(model, tiny_state());
  EXPECT_TRUE(at::equal(weight, tiny_state()[0].second));
  EXPECT_TRUE(weight.requires_grad());
  EXPECT_EQ(model.named_buffers()["count"].item<int64_t>(), 7);
}

TEST(LoadState, ConvertsBetweenFloatingTypes) {
  TinyModel model{ModelConfig()};
  NamedTensors state = tiny_state();
  state[0].second = state[0].second.to(at::kBFloat16);
  load_state(model, state);
  EXPECT_EQ(model.named_parameters()["weight"].scalar_type(), at::kFloat);
  EXPECT_TRUE(at::equal(model.named_parameters()["weight"].detach(), tiny_state()[0].second));
}

TEST(LoadState, ListsWhatDoesNotFit) {
  TinyModel model{ModelConfig()};
  EXPECT_EQ(error_of([&] {
              load_state(
                  model,
                  {{"weight", at::zeros({3, 2})}, {"extra", at::zeros({1})}, {"count", at::zeros({})}});
            }),
            "[load_state] the tensors do not fit the model: 1 missing: bias; 1 unexpected: extra; 2 of wrong "
            "shape or "
            "kind: weight (Float[3, 2], the model has Float[2, 3]), count (Float[], the model has Long[])");
}

TEST(LoadState, NamesGivenTwice) {
  TinyModel model{ModelConfig()};
  NamedTensors state = tiny_state();
  state.push_back(state[1]);
  EXPECT_EQ(error_of([&] { load_state(model, state); }),
            "[load_state] the tensors do not fit the model: 1 given twice: bias");
}

TEST(LoadState, NothingIsCopiedOnError) {
  TinyModel model{ModelConfig()};
  NamedTensors state = tiny_state();
  state.pop_back();
  EXPECT_THROW(load_state(model, state), ValueError);
  EXPECT_TRUE(at::equal(model.named_parameters()["weight"].detach(), at::zeros({2, 3})));
}

TEST(StateOf, SharesMemoryWithoutGradients) {
  TinyModel model{ModelConfig()};
  const NamedTensors state = state_of(model);
  ASSERT_EQ(state.size(), 3u);
  EXPECT_EQ(state[0].first, "weight");
  EXPECT_EQ(state[2].first, "count");
  EXPECT_FALSE(state[0].second.requires_grad());
  EXPECT_EQ(state[0].second.const_data_ptr(), model.named_parameters()["weight"].const_data_ptr());
}

ModelConfig small_model_config() {
  ModelConfig config = find_preset("fcos_efficientnet_lite0").config;
  config.num_classes = 1;
  config.class_names = {"nucleus"};
  config.category_ids = {};
  config.neck.channels = 32;
  config.head.cls_convs = config.head.box_convs = 1;
  return config;
}

TEST(LoadModel, RestoresASavedModel) {
  const TemporaryFolder folder;
  const auto model = make_model(small_model_config());
  save_model(folder / "m.safetensors", *model, R"({"epochs":1})");
  std::vector<std::string> warnings = {"stale"};
  const auto loaded = load_model(folder / "m.safetensors", &warnings);
  EXPECT_TRUE(warnings.empty());
  EXPECT_EQ(loaded->config(), model->config());
  const NamedTensors before = state_of(*model), after = state_of(*loaded);
  ASSERT_EQ(before.size(), after.size());
  EXPECT_GT(before.size(), 100u);
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(before[i].first, after[i].first);
    EXPECT_TRUE(at::equal(before[i].second, after[i].second)) << before[i].first;
  }
}

// ---- Half precision ----

std::string message_of_saving(const TinyModel& model, const std::string& dtype) {
  const TemporaryFolder folder;
  const std::string path = folder / "m";
  const std::string text = error_of([&] { save_model(path, model, "{}", dtype); });
  EXPECT_EQ(std::filesystem::exists(path), text == "no error");
  const std::string prefix = "[save_model] " + path + ": ";
  return text.rfind(prefix, 0) == 0 ? text.substr(prefix.size()) : text;
}

TEST(SaveHalf, ParametersAreRoundedAndBuffersStay) {
  const TemporaryFolder folder;
  auto config = small_model_config();
  config.backbone.norm = "bn";
  config.backbone.freeze = 1;  // its norms hold their weights in buffers
  const auto model = make_model(config);
  model->named_buffers()["backbone.stage1.0.project.norm.num_batches_tracked"].fill_(12345678901);
  model->named_buffers()["backbone.stage1.0.project.norm.running_var"].fill_(123456.78);
  save_model(folder / "half", *model, R"({"epochs":1})", "float16");
  save_model(folder / "whole", *model);
  EXPECT_LT(std::filesystem::file_size(folder / "half"), 0.6 * std::filesystem::file_size(folder / "whole"));
  const ModelFile file = read_model_file(folder / "half");
  EXPECT_EQ(file.summary, R"({"epochs":1})");
  const auto loaded = load_model(folder / "half");
  const auto parameters = model->named_parameters();
  const NamedTensors before = state_of(*model), after = state_of(*loaded);
  ASSERT_EQ(before.size(), file.tensors.size());
  for (size_t i = 0; i < before.size(); ++i) {
    const auto& [name, value] = before[i];
    const bool parameter = parameters.contains(name);
    EXPECT_EQ(file.tensors[i].first, name);
    EXPECT_EQ(file.tensors[i].second.scalar_type(), parameter ? at::kHalf : value.scalar_type()) << name;
    EXPECT_EQ(after[i].second.scalar_type(), value.scalar_type()) << name;
    const at::Tensor expected = parameter ? value.to(at::kHalf).to(at::kFloat) : value;
    EXPECT_TRUE(at::equal(after[i].second, expected)) << name;
  }
}

TEST(SaveHalf, WritingAgainGivesTheSameBytes) {
  const TemporaryFolder folder;
  save_model(folder / "a", *make_model(small_model_config()), "{}", "float16");
  save_model(folder / "b", *load_model(folder / "a"), "{}", "float16");
  EXPECT_EQ(testing::read_bytes(folder / "a"), testing::read_bytes(folder / "b"));
}

TEST(SaveHalf, ValuesOutOfRangeAreRefusedByName) {
  TinyModel model{ModelConfig()};
  const c10::NoGradGuard no_grad;
  at::Tensor weight = model.named_parameters()["weight"];
  weight[1][2] = 65519;  // rounds to 65504
  EXPECT_EQ(message_of_saving(model, "float16"), "no error");
  weight[1][2] = -65520;
  EXPECT_EQ(message_of_saving(model, "float16"),
            "parameter 'weight' holds -65520, beyond the 65504 that float16 can hold; save as float32");
  EXPECT_EQ(message_of_saving(model, "float32"), "no error");
  weight[1][2] = std::numeric_limits<double>::infinity();  // was lost before
  weight[0][0] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(message_of_saving(model, "float16"), "no error");
}

TEST(SaveHalf, OtherTypesAreRefused) {
  EXPECT_EQ(message_of_saving(TinyModel{ModelConfig()}, "half"),
            "dtype 'half' is not one of float32, float16");
}

TEST(LoadModel, NamesFileAndTensorsThatDoNotFit) {
  const TemporaryFolder folder;
  const auto model = make_model(small_model_config());
  ModelFile file{model->config(), "{}", state_of(*model), {}};
  file.tensors.pop_back();
  file.config.num_classes = 2;
  file.config.class_names = {};
  write_model_file(folder / "m", file);
  const std::string text = error_of([&] { load_model(folder / "m"); });
  EXPECT_EQ(text.find("[load_model] " + folder / "m" + ": the tensors do not fit the model: 1 missing: "), 0u)
      << text;
  EXPECT_NE(text.find("2 of wrong shape or kind: head.cls_logits.weight (Float[1, 32, 3, 3], the model has "
                      "Float[2, 32, 3, 3]), head.cls_logits.bias (Float[1], the model has Float[2])"),
            std::string::npos)
      << text;
}

}  // namespace
}  // namespace instseg
