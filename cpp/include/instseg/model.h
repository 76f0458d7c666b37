// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>

#include <cstdint>
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

/** Averages the loss normalisers [K] over the parts of a training step; the identity by default. */
using ReduceMean = std::function<at::Tensor(const at::Tensor&)>;

/** Sums a tensor over all workers of a distributed run. */
using ReduceSum = std::function<at::Tensor(const at::Tensor&)>;

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

  /**
   * What losses() divides its terms by: counts of positives and sums of their weights, [K] float32 on the
   * CPU or the device of the batch. They follow from the targets; no network runs. losses() hands them to
   * set_reduce_mean's function.
   */
  virtual at::Tensor normalizers(const ImageBatch& batch, const std::vector<Targets>& targets) = 0;

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

  /**
   * Splits a training step: its images are spread over `parts` calls of losses(), `micro_batches` of them one
   * after the other in this process and the others in other workers. `reduce` averages normalisers over all
   * parts; the mean of the parts' losses is then that of one large batch (docs/training.md, "Several GPUs").
   */
  void set_reduce_mean(ReduceMean reduce, int64_t parts = 1, int64_t micro_batches = 1);

  /** Batch norms that train their statistics share them among workers; an empty function ends that. */
  void sync_batch_norm(const ReduceSum& sum);

 protected:
  /** The normalisers of the whole step. Call it once in each losses(). */
  at::Tensor over_parts(const at::Tensor& normalizers);
  /** Whether this losses() is the first of a step in this process, the one that advances counters. */
  bool begins_step() const { return micro_batch_ == 0; }
  /** What one object adds to a count that was averaged over all parts. */
  double one() const { return 1.0 / static_cast<double>(parts_); }

  ModelConfig config_;
  StageTimes times_;

 private:
  ReduceMean reduce_mean_;
  int64_t parts_ = 1, micro_batches_ = 1;
  int64_t micro_batch_ = -1;  // of the current losses() within its step
};

/** make_model without initialisation: parameter values are undefined and no random number is drawn. */
std::shared_ptr<Model> make_empty_model(const ModelConfig& config);

/** Builds the model of `config` with freshly initialised parameters from torch's global generator. */
std::shared_ptr<Model> make_model(const ModelConfig& config);

}  // namespace instseg
