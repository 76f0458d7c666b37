// SPDX-License-Identifier: Apache-2.0
// EfficientNet-Lite (Tan and Le 2019, without squeeze-excite, ReLU6); docs/models.md "Backbones".
#include <array>
#include <cmath>
#include <map>

#include "instseg/error.h"
#include "layers/backbone.h"
#include "layers/conv_unit.h"
#include "layers/init.h"

namespace instseg {
namespace {

struct StageOptions {
  int64_t repeats, kernel, stride, expansion, channels;
};

constexpr std::array<StageOptions, 7> kStages = {{{1, 3, 1, 1, 16},
                                                  {2, 3, 2, 6, 24},
                                                  {2, 5, 2, 6, 40},
                                                  {3, 3, 2, 6, 80},
                                                  {3, 5, 1, 6, 112},
                                                  {4, 5, 2, 6, 192},
                                                  {1, 3, 1, 6, 320}}};

struct Scaling {
  double width, depth;
};

const std::map<std::string, Scaling> kScalings = {{"efficientnet_lite0", {1.0, 1.0}},
                                                  {"efficientnet_lite1", {1.0, 1.1}},
                                                  {"efficientnet_lite2", {1.1, 1.2}}};

/** `channels` x `width`, rounded to a multiple of 8 but never below 90 % of the exact value. */
int64_t scale_channels(int64_t channels, double width) {
  const double exact = static_cast<double>(channels) * width;
  const int64_t rounded = std::max<int64_t>(8, static_cast<int64_t>(exact + 4) / 8 * 8);
  return static_cast<double>(rounded) < 0.9 * exact ? rounded + 8 : rounded;
}

std::shared_ptr<ConvUnit> make_unit(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t groups,
                                    const std::string& norm, Activation activation) {
  auto unit = std::make_shared<ConvUnit>(ConvOptions{.in = in,
                                                     .out = out,
                                                     .kernel = kernel,
                                                     .stride = stride,
                                                     .groups = groups,
                                                     .same_padding = true,
                                                     .norm = {.kind = norm, .eps = 1e-3, .momentum = 0.01},
                                                     .activation = activation});
  init_he_normal_fan_out(unit->weight);
  return unit;
}

/** Inverted residual: expand 1x1, depthwise kxk, project 1x1. */
class InvertedResidual : public torch::nn::Module {
 public:
  InvertedResidual(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t expansion,
                   const std::string& norm)
      : identity_(stride == 1 && in == out) {
    const int64_t wide = in * expansion;
    if (expansion != 1)
      expand_ = register_module("expand", make_unit(in, wide, 1, 1, 1, norm, Activation::relu6));
    depthwise_ =
        register_module("depthwise", make_unit(wide, wide, kernel, stride, wide, norm, Activation::relu6));
    project_ = register_module("project", make_unit(wide, out, 1, 1, 1, norm, Activation::none));
  }

  at::Tensor forward(const at::Tensor& x) {
    const auto y = depthwise_->forward(expand_ ? expand_->forward(x) : x);
    return project_->forward(y, identity_ ? x : at::Tensor());
  }

 private:
  bool identity_;
  std::shared_ptr<ConvUnit> expand_, depthwise_, project_;
};

class Stage : public torch::nn::Module {
 public:
  Stage(int64_t in, const StageOptions& o, int64_t channels, int64_t repeats, const std::string& norm) {
    for (int64_t b = 0; b < repeats; ++b) {
      auto block = std::make_shared<InvertedResidual>(b == 0 ? in : channels, channels, o.kernel,
                                                      b == 0 ? o.stride : 1, o.expansion, norm);
      blocks_.push_back(register_module(std::to_string(b), block));
    }
  }

  at::Tensor forward(at::Tensor x) {
    for (const auto& block : blocks_) x = block->forward(x);
    return x;
  }

 private:
  std::vector<std::shared_ptr<InvertedResidual>> blocks_;
};

class EfficientNetLite : public Backbone {
 public:
  EfficientNetLite(const BackboneConfig& config, const Scaling& scaling) {
    stem_ = register_module("stem", make_unit(3, 32, 3, 2, 1, stage_norm(config, 0), Activation::relu6));
    if (config.freeze > 0) freeze_stage(*stem_);
    int64_t in = 32;
    for (size_t i = 0; i < kStages.size(); ++i) {
      const auto& o = kStages[i];
      const int64_t channels = scale_channels(o.channels, scaling.width);
      const bool end = i == 0 || i + 1 == kStages.size();  // the first and last stage keep their single block
      const auto repeats =
          end ? o.repeats : static_cast<int64_t>(std::ceil(static_cast<double>(o.repeats) * scaling.depth));
      const auto number = static_cast<int64_t>(i) + 1;
      const auto norm = stage_norm(config, number);
      stages_.push_back(
          register_module(join("stage", number), std::make_shared<Stage>(in, o, channels, repeats, norm)));
      if (config.freeze > number) freeze_stage(*stages_.back());
      in = channels;
      if (is_tap(i)) channels_.push_back(channels);
    }
  }

  std::vector<at::Tensor> forward(at::Tensor x) override {
    x = stem_->forward(x);
    std::vector<at::Tensor> taps;
    for (size_t i = 0; i < stages_.size(); ++i) {
      x = stages_[i]->forward(x);
      if (is_tap(i)) taps.push_back(x);
    }
    return taps;
  }

  std::vector<int64_t> channels() const override { return channels_; }

 private:
  // The last stage of each stride: 4, 8, 16, 32.
  static bool is_tap(size_t i) { return i == 1 || i == 2 || i == 4 || i == 6; }

  std::shared_ptr<ConvUnit> stem_;
  std::vector<std::shared_ptr<Stage>> stages_;
  std::vector<int64_t> channels_;
};

}  // namespace

std::shared_ptr<Backbone> make_efficientnet_lite(const BackboneConfig& config) {
  const auto scaling = kScalings.find(config.name);
  check<ValueError>(scaling != kScalings.end(), "[make_backbone] backbone.name: unknown EfficientNet-Lite '",
                    config.name, "'");
  return std::make_shared<EfficientNetLite>(config, scaling->second);
}

}  // namespace instseg
