// SPDX-License-Identifier: Apache-2.0
#include "instseg/predictor.h"

#include <ATen/Context.h>
#include <ATen/Version.h>
#include <c10/core/GradMode.h>

#include <chrono>

#include "instseg/error.h"
#include "instseg/model.h"
#include "instseg/model_file.h"
#include "instseg/preprocess.h"
#include "models/check_batch.h"
#include "predictor/memory_pool.h"

namespace instseg {
namespace {

at::ScalarType dtype_of(const std::string& precision) {
  if (precision == "bf16") return at::kBFloat16;
  return precision == "fp16" ? at::kHalf : at::kFloat;
}

bool cpu_runs_bf16() {
  const auto capability = at::get_cpu_capability();
  return capability.starts_with("AVX512") || capability.starts_with("SVE");
}

at::Device device_of(const std::string& name) {
  std::string type = name.substr(0, name.find(':'));
  check<ValueError>(type == "cpu" || type == "cuda", "[Predictor] device: '", name,
                    "' is neither cpu nor cuda[:index]");
  check<ValueError>(type == "cpu" || at::hasCUDA(), "[Predictor] device: '", name,
                    "' asked for, but libtorch sees no CUDA device; use --device cpu");
  try {
    return at::Device(name);
  } catch (const c10::Error&) {
    throw ValueError(join("[Predictor] device: '", name, "' is not a device name"));
  }
}

ModelConfig with_options(ModelConfig config, const PredictorOptions& options) {
  if (options.short_side > 0) config.input.short_side = options.short_side;
  if (options.long_side > 0) config.input.long_side = options.long_side;
  if (options.max_detections > 0) config.post.max_detections = options.max_detections;
  return config;
}

/** A lowered copy of `tensors` in a model of `config`; the originals stay untouched. */
std::shared_ptr<Model> lowered_model(const ModelConfig& config, const NamedTensors& tensors,
                                     const PredictorOptions& options) {
  const c10::AutoGradMode no_grad(false);
  auto model = make_empty_model(config);
  load_state(*model, tensors);
  model->to(device_of(options.device));
  model->lower(dtype_of(options.precision));
  return model;
}

}  // namespace

void PredictorOptions::check() const {
  instseg::check<ValueError>(precision == "fp32" || precision == "bf16" || precision == "fp16",
                             "[Predictor] precision: '", precision, "' is not one of fp32, bf16, fp16");
  const bool cpu = device_of(device).is_cpu();
  instseg::check<ValueError>(precision != "fp16" || !cpu,
                             "[Predictor] precision: fp16 needs a CUDA device; use bf16 or fp32 on the CPU");
  instseg::check<ValueError>(precision != "bf16" || !cpu || cpu_runs_bf16(),
                             "[Predictor] precision: bf16 needs a CPU with AVX-512 or SVE, this one has ",
                             at::get_cpu_capability(), "; use fp32");
  instseg::check<ValueError>(score_threshold <= 1, "[Predictor] score_threshold: ", score_threshold,
                             " is above 1");
}

struct Predictor::Impl {
  Impl(const ModelConfig& config, const NamedTensors& tensors, const PredictorOptions& options)
      : options(options) {
    options.check();
    model = lowered_model(with_options(config, options), tensors, options);
  }

  /** The batch of `make_batch`, whose time counts as preprocessing, through the network. */
  template <class MakeBatch>
  std::vector<Instances> detect(const MakeBatch& make_batch) {
    const c10::AutoGradMode no_grad(false);
    const auto start = std::chrono::steady_clock::now();
    ImageBatch batch = make_batch();
    batch.pixels = batch.pixels.to(device_of(options.device));
    times.preprocess =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    auto results = model->detect(batch);
    times.network = model->last_times().network;
    times.postprocess = model->last_times().postprocess;
    for (auto& result : results) {
      result = (options.score_threshold > 0 ? result.above(options.score_threshold) : result).to(at::kCPU);
    }
    return results;
  }

  PredictorOptions options;
  std::shared_ptr<Model> model;
  std::vector<std::string> warnings;
  StageTimes times;
  MemoryPool pool;
};

Predictor::Predictor(const std::string& model_file, const PredictorOptions& options) {
  options.check();
  auto file = read_model_file(model_file);
  impl_ = std::make_unique<Impl>(file.config, file.tensors, options);
  impl_->warnings = std::move(file.warnings);
}

Predictor::Predictor(const Model& model, const PredictorOptions& options)
    : impl_(std::make_unique<Impl>(model.config(), state_of(model), options)) {}

Predictor::~Predictor() = default;
Predictor::Predictor(Predictor&&) noexcept = default;
Predictor& Predictor::operator=(Predictor&&) noexcept = default;

Instances Predictor::operator()(const at::Tensor& image) {
  return (*this)(std::vector<at::Tensor>{image}).front();
}

std::vector<Instances> Predictor::operator()(const std::vector<at::Tensor>& images) {
  if (images.empty()) return {};
  const PoolScope scope(impl_->pool);
  return impl_->detect([&] { return preprocess(images, config().input); });
}

std::vector<Instances> Predictor::detect(const ImageBatch& batch) {
  check_batch(batch, "Predictor.detect");
  const PoolScope scope(impl_->pool);
  return impl_->detect([&] { return batch; });
}

const ModelConfig& Predictor::config() const { return impl_->model->config(); }
const std::vector<std::string>& Predictor::warnings() const { return impl_->warnings; }
const StageTimes& Predictor::last_times() const { return impl_->times; }

}  // namespace instseg
