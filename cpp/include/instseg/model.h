// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "instseg/config.h"
#include "instseg/instances.h"
#include "instseg/preprocess.h"

namespace instseg {

/** Named tensors in a fixed order. */
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/** Averages a scalar tensor over all workers of a distributed run; the identity by default. */
using ReduceMean = std::function<at::Tensor(const at::Tensor&)>;

/**
 * A trainable model. Parameter names follow one scheme for all families (docs/models.md, "Names"); they are
 * created by make_model and owned here.
 */
class Model : public torch::nn::Module {
 public:
  explicit Model(ModelConfig config);

  const ModelConfig& config() const { return config_; }

  /**
   * Loss terms, each a scalar with gradient, already weighted; their sum is minimised.
   * Every trainable parameter takes part, also when no image has objects. Throws ValueError on malformed
   * targets.
   */
  virtual NamedTensors losses(const ImageBatch& batch, const std::vector<Targets>& targets) = 0;

  /** Detections per image in original coordinates. Runs without gradients. */
  virtual std::vector<Instances> detect(const ImageBatch& batch) = 0;

  /** Intermediate outputs by name: "res3", "p3", "logits.p3", "reg.p3" (network units), "ctr.p3", ... */
  virtual NamedTensors intermediates(const ImageBatch& batch) = 0;

  /**
   * Turns this instance into its inference form: norms folded into convolutions, weights packed once for
   * channels-last convolution in `dtype` (float32, bfloat16 or float16). The parameters are released;
   * losses() throws afterwards.
   */
  virtual void lower(at::ScalarType dtype) = 0;

  /** Network and post-processing time of the last detect(). */
  const StageTimes& last_times() const { return times_; }

  /** Averages loss normalisers over workers; set by distributed training. */
  void set_reduce_mean(ReduceMean reduce) { reduce_mean_ = std::move(reduce); }

 protected:
  ModelConfig config_;
  ReduceMean reduce_mean_;
  StageTimes times_;
};

/** make_model without initialisation: parameter values are undefined and no random number is drawn. */
std::shared_ptr<Model> make_empty_model(const ModelConfig& config);

/** Builds the model of `config` with freshly initialised parameters from torch's global generator. */
std::shared_ptr<Model> make_model(const ModelConfig& config);

}  // namespace instseg
