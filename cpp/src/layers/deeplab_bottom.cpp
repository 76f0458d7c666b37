// SPDX-License-Identifier: Apache-2.0
#include <ATen/ops/cat.h>
#include <ATen/ops/mean.h>

#include <array>

#include "layers/mask_blocks.h"

namespace instseg {
namespace {

constexpr int64_t kLowChannels = 48;                        // of the reduced low-level map
constexpr std::array<int64_t, 3> kDilations = {6, 12, 18};  // of the atrous branches

/**
 * A DeepLabV3+ decoder (Chen et al., ECCV 2018) as bottom module, the paper's alternative to protonet. No
 * published weights use it: low-level map reduced by 1x1; high-level map through atrous pyramid pooling;
 * both joined at stride 8, two 3x3 blocks, x2.
 */
class DeepLabBottom : public MaskBranch {
 public:
  DeepLabBottom(const BlendMaskConfig& config, int64_t in, const std::vector<int64_t>& taps,
                const MaskBranchOptions& options)
      : MaskBranch(in, options), from_backbone_(config.bottom == "deeplab_backbone") {
    const int64_t width = options.channels, high = from_backbone_ ? taps[3] : in;
    low_ = register_module("low", make_block(from_backbone_ ? taps[1] : in, kLowChannels, options.norm, 1));
    aspp_ = register_module("aspp", std::make_shared<UnitList>());
    aspp_->add(make_block(high, width, options.norm, 1));
    for (const int64_t dilation : kDilations) aspp_->add(make_block(high, width, options.norm, 3, dilation));
    // One pixel per image has no batch statistics worth the name.
    pool_ = register_module("pool", make_block(high, width, "none", 1));
    project_ = register_module("project", make_block(5 * width, width, options.norm, 1));
    decoder_ = register_module("decoder", std::make_shared<UnitList>());
    decoder_->add(make_block(width + kLowChannels, width, options.norm));
    decoder_->add(make_block(width, width, options.norm));
  }

 protected:
  at::Tensor trunk(const std::vector<at::Tensor>& taps, const std::vector<at::Tensor>& features) override {
    const auto& low = from_backbone_ ? taps[1] : features[0];
    const auto& high = from_backbone_ ? taps[3] : features[2];
    std::vector<at::Tensor> branches;
    for (size_t i = 0; i < aspp_->size(); ++i) branches.push_back((*aspp_)[i].forward(high));
    const std::array<int64_t, 2> spatial = {2, 3};
    branches.push_back(pool_->forward(at::mean(high, spatial, /*keepdim=*/true)).expand_as(branches[0]));
    const int64_t height = low.size(2), width = low.size(3);
    const auto context = bilinear_to(project_->forward(at::cat(branches, 1)), height, width);
    const auto x = decoder_->forward(at::cat({context, low_->forward(low)}, 1));
    return bilinear_to(x, 2 * height, 2 * width);
  }

 private:
  bool from_backbone_;
  std::shared_ptr<ConvUnit> low_, pool_, project_;
  std::shared_ptr<UnitList> aspp_, decoder_;
};

}  // namespace

std::shared_ptr<MaskBranch> make_deeplab_bottom(const BlendMaskConfig& config, int64_t in,
                                                const std::vector<int64_t>& tap_channels,
                                                const MaskBranchOptions& options) {
  return std::make_shared<DeepLabBottom>(config, in, tap_channels, options);
}

}  // namespace instseg
