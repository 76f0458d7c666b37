// SPDX-License-Identifier: Apache-2.0
// ResNet (He et al. 2016); both stride placements, docs/models.md "Backbones".
#include <ATen/ops/max_pool2d.h>

#include <array>
#include <map>

#include "instseg/error.h"
#include "layers/backbone.h"
#include "layers/conv_unit.h"
#include "layers/init.h"

namespace instseg {
namespace {

struct Depth {
  std::array<int64_t, 4> blocks;
  bool bottleneck;
};

const std::map<std::string, Depth> kDepths = {{"resnet18", {{2, 2, 2, 2}, false}},
                                              {"resnet34", {{3, 4, 6, 3}, false}},
                                              {"resnet50", {{3, 4, 6, 3}, true}},
                                              {"resnet101", {{3, 4, 23, 3}, true}}};

struct BlockOptions {
  int64_t in, width, out, stride;
  bool bottleneck, stride_in_1x1;
  std::string norm;
};

std::shared_ptr<ConvUnit> make_unit(int64_t in, int64_t out, int64_t kernel, int64_t stride,
                                    const std::string& norm, Activation activation) {
  auto unit = std::make_shared<ConvUnit>(ConvOptions{.in = in,
                                                     .out = out,
                                                     .kernel = kernel,
                                                     .stride = stride,
                                                     .norm = {.kind = norm},
                                                     .activation = activation});
  init_he_normal_fan_out(unit->weight);
  return unit;
}

/** Basic (two 3x3) or bottleneck (1x1, 3x3, 1x1) residual block. */
class Block : public torch::nn::Module {
 public:
  explicit Block(const BlockOptions& o) {
    const auto add = [&](const char* name, int64_t in, int64_t out, int64_t kernel, int64_t stride) {
      convs_.push_back(register_module(name, make_unit(in, out, kernel, stride, o.norm, Activation::relu)));
    };
    if (o.bottleneck) {
      add("conv1", o.in, o.width, 1, o.stride_in_1x1 ? o.stride : 1);
      add("conv2", o.width, o.width, 3, o.stride_in_1x1 ? 1 : o.stride);
      add("conv3", o.width, o.out, 1, 1);
    } else {
      add("conv1", o.in, o.width, 3, o.stride);
      add("conv2", o.width, o.out, 3, 1);
    }
    if (o.in != o.out || o.stride != 1) {
      shortcut_ = register_module("shortcut", make_unit(o.in, o.out, 1, o.stride, o.norm, Activation::none));
    }
  }

  at::Tensor forward(const at::Tensor& x) {
    auto y = x;
    for (size_t i = 0; i + 1 < convs_.size(); ++i) y = convs_[i]->forward(y);
    return convs_.back()->forward(y, shortcut_ ? shortcut_->forward(x) : x);
  }

 private:
  std::vector<std::shared_ptr<ConvUnit>> convs_;
  std::shared_ptr<ConvUnit> shortcut_;
};

class Stage : public torch::nn::Module {
 public:
  Stage(BlockOptions options, int64_t blocks) {
    for (int64_t b = 0; b < blocks; ++b) {
      blocks_.push_back(register_module(std::to_string(b), std::make_shared<Block>(options)));
      options.in = options.out;
      options.stride = 1;
    }
  }

  at::Tensor forward(at::Tensor x) {
    for (const auto& block : blocks_) x = block->forward(x);
    return x;
  }

 private:
  std::vector<std::shared_ptr<Block>> blocks_;
};

class ResNet : public Backbone {
 public:
  ResNet(const BackboneConfig& config, const Depth& depth) {
    stem_ = std::make_shared<ConvUnit>(ConvOptions{.in = 3,
                                                   .out = 64,
                                                   .kernel = 7,
                                                   .stride = 2,
                                                   .norm = {.kind = stage_norm(config, 0)},
                                                   .activation = Activation::relu});
    register_module("stem", stem_);
    init_he_normal_fan_out(stem_->weight);
    if (config.freeze > 0) freeze_stage(*stem_);
    int64_t in = 64;
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t width = 64 << i, out = depth.bottleneck ? 4 * width : width;
      const BlockOptions options{
          in, width, out, i == 0 ? 1 : 2, depth.bottleneck, config.stride_in_1x1, stage_norm(config, i + 1)};
      stages_.push_back(
          register_module(join("res", i + 2), std::make_shared<Stage>(options, depth.blocks[i])));
      if (config.freeze > i + 1) freeze_stage(*stages_.back());
      channels_.push_back(in = out);
    }
  }

  std::vector<at::Tensor> forward(at::Tensor x) override {
    x = at::max_pool2d(stem_->forward(x), 3, 2, 1);
    std::vector<at::Tensor> taps;
    for (const auto& stage : stages_) taps.push_back(x = stage->forward(x));
    return taps;
  }

  std::vector<int64_t> channels() const override { return channels_; }

 private:
  std::shared_ptr<ConvUnit> stem_;
  std::vector<std::shared_ptr<Stage>> stages_;
  std::vector<int64_t> channels_;
};

}  // namespace

std::shared_ptr<Backbone> make_resnet(const BackboneConfig& config) {
  const auto depth = kDepths.find(config.name);
  check<ValueError>(depth != kDepths.end(), "[make_backbone] backbone.name: unknown ResNet '", config.name,
                    "'");
  return std::make_shared<ResNet>(config, depth->second);
}

}  // namespace instseg
