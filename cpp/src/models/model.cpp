// SPDX-License-Identifier: Apache-2.0
#include "instseg/model.h"

#include "instseg/error.h"
#include "layers/init.h"
#include "models/blendmask.h"
#include "models/condinst.h"
#include "models/fcos.h"
#include "models/solo.h"

namespace instseg {

Model::Model(ModelConfig config)
    : config_(std::move(config)), reduce_mean_([](const at::Tensor& value) { return value; }) {}

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
