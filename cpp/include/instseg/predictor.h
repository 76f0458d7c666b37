// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "instseg/config.h"
#include "instseg/instances.h"
#include "instseg/preprocess.h"

namespace instseg {

class Model;

/** Options of a Predictor. Negative or zero numbers mean "as the model file says". */
struct PredictorOptions {
  std::string device = "cpu";      // "cpu", "cuda", "cuda:1", ...
  std::string precision = "fp32";  // "fp32", "bf16" or "fp16" (CUDA only)
  double score_threshold = -1;     // drop detections whose reported score is below
  int64_t max_detections = 0;
  int64_t short_side = 0;  // px
  int64_t long_side = 0;   // px

  void check() const;
};

/**
 * Runs one model file on images. Weights are folded and packed once, here. A Predictor may be used by one
 * thread at a time; create one per thread.
 */
class Predictor {
 public:
  /** Throws IoError or ValueError (see read_model_file), ValueError on options this build cannot honour. */
  explicit Predictor(const std::string& model_file, const PredictorOptions& options = {});
  /** Takes the current weights of `model`, which stays untouched. */
  explicit Predictor(const Model& model, const PredictorOptions& options = {});
  ~Predictor();
  Predictor(Predictor&&) noexcept;
  Predictor& operator=(Predictor&&) noexcept;

  /** Detections on one RGB image, uint8 [H, W, 3] on the CPU. */
  Instances operator()(const at::Tensor& image);
  /** Detections on several images in one forward pass; images of different sizes are padded to a common one.
   */
  std::vector<Instances> operator()(const std::vector<at::Tensor>& images);
  /** Detections on a batch made by preprocess() or make_batch(), on any device; the network part of the
   * above. */
  std::vector<Instances> detect(const ImageBatch& batch);

  const ModelConfig& config() const;
  const std::vector<std::string>& warnings() const;
  const StageTimes& last_times() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace instseg
