// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "instseg/config.h"
#include "instseg/image_size.h"
#include "layers/mask_branch.h"

namespace instseg {

/** What a SOLO network computed for a batch. Masks come late: only levels with a wanted mask have towers. */
struct SoloForward {
  ImageSize mask_size;               // H/4, W/4 of the padded image
  std::vector<at::Tensor> taps;      // C2..C5
  std::vector<at::Tensor> features;  // P2..P6; P2 at half size where that is all that is read
  std::vector<at::Tensor> levels;    // maps of the heads, [B, channels, h, w]
  std::vector<at::Tensor> grids;     // the same resized to the category grid, [B, channels, S, S]
  std::vector<at::Tensor> logits;    // class logits [B, C, S, S] float32
  at::Tensor mask_features;          // "solov2": [B, E, H/4, W/4] float32, once a level has been prepared
  std::vector<std::vector<at::Tensor>> towers;  // of each level, empty until it is prepared
};

/** Probabilities of the masks at `rows` [K] int64 of some cells: [K, h, w] float32. */
using MaskMaker = std::function<at::Tensor(const at::Tensor& rows)>;

/** Maps by name, in a fixed order. */
using NamedMaps = std::vector<std::pair<std::string, at::Tensor>>;

/** A convolution of which only some output channels are computed. Parameters weight [O, in, k, k], bias [O].
 */
class ChannelConv : public torch::nn::Module {
 public:
  ChannelConv(int64_t in, int64_t out, int64_t kernel, double prior_prob);
  /** Channels `rows` [K] int64 of x [B, in, h, w], float32; without `rows` all of them. */
  at::Tensor forward(const at::Tensor& x, const at::Tensor& rows = {}) const;
  at::Tensor weight, bias;
};

/**
 * Category branch and mask branches of SOLO (Wang et al., ECCV 2020), Decoupled SOLO and SOLOv2 (NeurIPS
 * 2020); docs/models.md "SOLO". Parameters cls_tower, cls_logits, and those of the kind of head.
 */
class SoloHead : public torch::nn::Module {
 public:
  SoloHead(const SoloConfig& config, int64_t in, int64_t num_classes, double prior_prob);

  /** P2..P6 of `network` -> its levels, grids and logits. */
  void classify(SoloForward& network);
  /** Computes what masks of a level are made of, once, for the whole batch. */
  void prepare(SoloForward& network, size_t level);

  /**
   * Masks of `cells` [K] int64 (row * S + column) of a prepared level of image `image`, resized bilinearly as
   * probabilities to `size`; no size: at their own, which training uses.
   */
  virtual MaskMaker masks(const SoloForward& network, size_t level, int64_t image, const at::Tensor& cells,
                          const ImageSize& size) = 0;
  /** Raw maps of all cells of all levels, which must be prepared: "mask.{l}", "x.{l}", "y.{l}" or
   * "kernel.{l}". */
  virtual NamedMaps all_maps(const SoloForward& network) = 0;

  /** 0, attached to every mask parameter that the prepared levels do not use. */
  at::Tensor unused_zero(const SoloForward& network);
  void lower(at::ScalarType dtype);

 protected:
  virtual std::vector<at::Tensor> run_towers(const SoloForward& network, size_t level) = 0;
  std::shared_ptr<UnitList> make_tower(const char* name, int64_t in);
  /** One convolution per level, with `out(S)` channels. */
  void make_outputs(const char* name, int64_t kernel, double prior_prob,
                    const std::function<int64_t(int64_t)>& out);
  int64_t grid(size_t level) const { return config_.grids[level]; }
  /** What predictors read: float32 once lowered. */
  at::Tensor predictor_input(const at::Tensor& tower) const {
    return lowered_ ? tower.to(at::kFloat) : tower;
  }

  SoloConfig config_;
  std::vector<std::vector<std::shared_ptr<ChannelConv>>> outputs_;  // of each level, in order of make_outputs

 private:
  std::shared_ptr<UnitList> cls_tower_;
  std::shared_ptr<ConvUnit> cls_logits_;
  bool lowered_ = false;
};

std::shared_ptr<SoloHead> make_solo_head(const SoloConfig& config, int64_t in, int64_t num_classes,
                                         double prior_prob);

/** Mask features of SOLOv2 from P2..P5: level0..level3 and output (SOLOv2 section 3.2). */
class SoloMaskBranch : public torch::nn::Module {
 public:
  SoloMaskBranch(const SoloConfig& config, int64_t in);
  /** P2.. -> [B, mask_channels, H/4, W/4] float32. */
  at::Tensor forward(const std::vector<at::Tensor>& features);
  /** Lowers all but the last convolution to `dtype`, that to float32. */
  void lower(at::ScalarType dtype);

 private:
  std::vector<std::shared_ptr<UnitList>> levels_;
  std::shared_ptr<ConvUnit> output_;
  bool lowered_ = false;
};

}  // namespace instseg
