// SPDX-License-Identifier: Apache-2.0
#include "instseg/model.h"

#include "instseg/error.h"
#include "layers/init.h"
#include "layers/norm.h"
#include "models/blendmask.h"
#include "models/condinst.h"
#include "models/fcos.h"
#include "models/solo.h"

namespace instseg {

Model::Model(ModelConfig config)
    : config_(std::move(config)), reduce_mean_([](const at::Tensor& value) { return value; }) {}

void Model::set_reduce_mean(ReduceMean reduce, int64_t parts, int64_t micro_batches) {
  check<ValueError>(micro_batches > 0 && parts >= micro_batches && parts % micro_batches == 0,
                    "[set_reduce_mean] parts is ", parts, ", micro_batches ", micro_batches,
                    "; parts must be a positive multiple of micro_batches");
  reduce_mean_ = std::move(reduce);
  parts_ = parts;
  micro_batches_ = micro_batches;
  micro_batch_ = -1;
}

void Model::sync_batch_norm(const ReduceSum& sum) {
  for (const auto& module : modules(/*include_self=*/false)) {
    if (auto* norm = dynamic_cast<Norm*>(module.get())) norm->set_sum(sum);
  }
}

at::Tensor Model::over_parts(const at::Tensor& normalizers) {
  micro_batch_ = (micro_batch_ + 1) % micro_batches_;
  auto reduced = reduce_mean_(normalizers);
  check<ValueError>(reduced.sizes() == normalizers.sizes(), "[losses] the function of set_reduce_mean made ",
                    reduced.sizes(), " of normalisers ", normalizers.sizes());
  return reduced.to(normalizers.device());
}

std::shared_ptr<Model> make_model(const ModelConfig& config) {
  config.check();
  if (config.family == "fcos") return make_fcos(config);
  if (config.family == "condinst") return make_condinst(config);
  if (config.family == "blendmask") return make_blendmask(config);
  if (config.family == "solo") return make_solo(config);
  throw ValueError(join("[make_model] family: unknown model family '", config.family, "'"));
}

std::shared_ptr<Model> make_empty_model(const ModelConfig& config) {
  const SkipInit skip;
  return make_model(config);
}

}  // namespace instseg
