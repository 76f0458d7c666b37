// SPDX-License-Identifier: Apache-2.0
// The three kinds of mask branches; all make only the masks that are asked for.
#include <ATen/TensorOperators.h>
#include <ATen/ops/_unique.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <utility>

#include "instseg/error.h"
#include "layers/init.h"
#include "layers/mask_blocks.h"
#include "layers/solo_blocks.h"
#include "layers/solo_head.h"

namespace instseg {
namespace {

/** Image `image` of a batch as a batch of one. */
at::Tensor one_image(const at::Tensor& batch, int64_t image) { return batch.narrow(0, image, 1); }

at::Tensor doubled(const at::Tensor& x) { return bilinear_to(x, 2 * x.size(2), 2 * x.size(3)); }

/** Probabilities of logits [1, K, h, w], resized to `size` when there is one: [K, H, W]. */
at::Tensor probabilities(const at::Tensor& logits, const ImageSize& size) {
  const auto p = logits.sigmoid();
  const bool same = size.height == 0 || (size.height == p.size(2) && size.width == p.size(3));
  return (same ? p : bilinear_to(p, size.height, size.width)).squeeze(0);
}

/** SOLO: one output channel per cell. */
class MapHead : public SoloHead {
 public:
  MapHead(const SoloConfig& config, int64_t in, int64_t num_classes, double prior_prob)
      : SoloHead(config, in, num_classes, prior_prob), tower_(make_tower("mask_tower", in + 2)) {
    make_outputs("mask_output", 1, prior_prob, [](int64_t s) { return s * s; });
  }

  MaskMaker masks(const SoloForward& network, size_t level, int64_t image, const at::Tensor& cells,
                  const ImageSize& size) override {
    const auto tower = one_image(network.towers[level][0], image);
    return [output = outputs_[level][0], tower, cells, size](const at::Tensor& rows) {
      // A 1x1 convolution and a resize whose weights sum to 1 commute: channels are enlarged, not their 256
      // inputs.
      return probabilities(doubled(output->forward(tower, cells.index_select(0, rows))), size);
    };
  }

  NamedMaps all_maps(const SoloForward& network) override {
    NamedMaps maps;
    for (size_t level = 0; level < network.towers.size(); ++level) {
      maps.emplace_back(join("mask.", level), outputs_[level][0]->forward(doubled(network.towers[level][0])));
    }
    return maps;
  }

 protected:
  std::vector<at::Tensor> run_towers(const SoloForward& network, size_t level) override {
    return {tower_->forward(with_coordinates(network.levels[level]))};
  }

 private:
  std::shared_ptr<UnitList> tower_;
};

/** Decoupled SOLO: one output channel per column and one per row; a mask is their product. */
class DecoupledHead : public SoloHead {
 public:
  DecoupledHead(const SoloConfig& config, int64_t in, int64_t num_classes, double prior_prob)
      : SoloHead(config, in, num_classes, prior_prob) {
    if (config.head == "decoupled_light") {
      both_tower_ = make_tower("mask_tower", in + 2);
    } else {
      x_tower_ = make_tower("x_tower", in + 1);
      y_tower_ = make_tower("y_tower", in + 1);
    }
    make_outputs("x_output", 3, prior_prob, [](int64_t s) { return s; });
    make_outputs("y_output", 3, prior_prob, [](int64_t s) { return s; });
  }

  MaskMaker masks(const SoloForward& network, size_t level, int64_t image, const at::Tensor& cells,
                  const ImageSize& size) override {
    auto tower = doubled(one_image(tower_of(network, level, 0), image));
    const auto [x, x_of] = factor(*outputs_[level][0], tower, cells.remainder(grid(level)), size);
    if (!both_tower_) {
      tower.reset();  // as large as all else here
      tower = doubled(one_image(tower_of(network, level, 1), image));
    }
    const auto [y, y_of] = factor(*outputs_[level][1], tower, cells.div(grid(level), "floor"), size);
    return [x = x, y = y, x_of = x_of, y_of = y_of](const at::Tensor& rows) {
      return x.index_select(0, x_of.index_select(0, rows)) * y.index_select(0, y_of.index_select(0, rows));
    };
  }

  NamedMaps all_maps(const SoloForward& network) override {
    NamedMaps maps;
    for (const size_t axis : {0, 1}) {
      for (size_t level = 0; level < network.towers.size(); ++level) {
        const auto& tower = tower_of(network, level, axis);
        maps.emplace_back(join(axis == 0 ? "x." : "y.", level),
                          outputs_[level][axis]->forward(doubled(tower)));
      }
    }
    return maps;
  }

 protected:
  std::vector<at::Tensor> run_towers(const SoloForward& network, size_t level) override {
    const auto& f = network.levels[level];
    if (both_tower_) return {both_tower_->forward(with_coordinates(f))};
    return {x_tower_->forward(with_coordinates(f, true, false)),
            y_tower_->forward(with_coordinates(f, false, true))};
  }

 private:
  static const at::Tensor& tower_of(const SoloForward& network, size_t level, size_t axis) {
    const auto& towers = network.towers[level];
    return towers[towers.size() > 1 ? axis : 0];
  }

  /** The distinct factors of the lines (columns or rows) [K], and which of them each one is. */
  static std::pair<at::Tensor, at::Tensor> factor(const ChannelConv& output, const at::Tensor& tower,
                                                  const at::Tensor& lines, const ImageSize& size) {
    const auto [distinct, of] = at::_unique(lines, /*sorted=*/true, /*return_inverse=*/true);
    return {probabilities(output.forward(tower, distinct), size), of};
  }

  std::shared_ptr<UnitList> both_tower_, x_tower_, y_tower_;
};

/** SOLOv2: every cell predicts the kernel of a 1x1 convolution over shared mask features. */
class KernelHead : public SoloHead {
 public:
  KernelHead(const SoloConfig& config, int64_t in, int64_t num_classes, double prior_prob)
      : SoloHead(config, in, num_classes, prior_prob), tower_(make_tower("kernel_tower", in + 2)) {
    kernel_ =
        register_module("kernel", std::make_shared<ConvUnit>(ConvOptions{
                                      .in = config.channels, .out = config.mask_channels, .bias = true}));
    init_normal(kernel_->weight, 0.01);
  }

  MaskMaker masks(const SoloForward& network, size_t level, int64_t image, const at::Tensor& cells,
                  const ImageSize& size) override {
    const auto kernels =
        one_image(network.towers[level][0], image).flatten(2).squeeze(0).index_select(1, cells);
    const auto features = one_image(network.mask_features, image);
    return [kernels, features, size](const at::Tensor& rows) {
      const auto logits =
          at::mm(kernels.index_select(1, rows).t(), features.flatten(2).squeeze(0)).to(at::kFloat);
      return probabilities(logits.view({1, rows.size(0), features.size(2), features.size(3)}), size);
    };
  }

  NamedMaps all_maps(const SoloForward& network) override {
    NamedMaps maps;
    for (size_t level = 0; level < network.towers.size(); ++level) {
      maps.emplace_back(join("kernel.", level), network.towers[level][0]);
    }
    return maps;
  }

 protected:
  std::vector<at::Tensor> run_towers(const SoloForward& network, size_t level) override {
    const auto placed = with_coordinates(network.levels[level]);
    const auto tower = tower_->forward(bilinear_to(placed, grid(level), grid(level)));
    return {kernel_->forward(predictor_input(tower)).to(at::kFloat)};
  }

 private:
  std::shared_ptr<UnitList> tower_;
  std::shared_ptr<ConvUnit> kernel_;
};

}  // namespace

std::shared_ptr<SoloHead> make_solo_head(const SoloConfig& config, int64_t in, int64_t num_classes,
                                         double prior_prob) {
  if (config.head == "solo") return std::make_shared<MapHead>(config, in, num_classes, prior_prob);
  if (config.head == "solov2") return std::make_shared<KernelHead>(config, in, num_classes, prior_prob);
  return std::make_shared<DecoupledHead>(config, in, num_classes, prior_prob);
}

SoloMaskBranch::SoloMaskBranch(const SoloConfig& config, int64_t in) {
  const int64_t width = config.branch_channels;
  for (int64_t level = 0; level < 4; ++level) {
    levels_.push_back(register_module(join("level", level), std::make_shared<UnitList>()));
    for (int64_t i = 0; i < std::max<int64_t>(level, 1); ++i) {
      const int64_t first = level == 3 ? in + 2 : in;
      levels_.back()->add(make_solo_block(i == 0 ? first : width, width));
    }
  }
  output_ = register_module("output", make_solo_block(width, config.mask_channels, 1));
}

at::Tensor SoloMaskBranch::forward(const std::vector<at::Tensor>& features) {
  auto sum = levels_[0]->forward(features[0]);
  for (size_t level = 1; level < levels_.size(); ++level) {
    auto x = level == 3 ? with_coordinates(features[level]) : features[level];
    for (size_t i = 0; i < level; ++i) x = doubled((*levels_[level])[i].forward(x));
    sum = sum + x;
  }
  return output_->forward(lowered_ ? sum.to(at::kFloat) : sum).to(at::kFloat);
}

void SoloMaskBranch::lower(at::ScalarType dtype) {
  for (const auto& level : levels_) lower_units(*level, dtype);
  output_->lower(at::kFloat);
  lowered_ = true;
}

}  // namespace instseg
