// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "layers/mask_branch.h"

namespace instseg {

/** conv without bias -> norm -> ReLU (with bias when there is no norm), Kaiming-uniform weights (a = 1). */
std::shared_ptr<ConvUnit> make_block(int64_t in, int64_t out, const std::string& norm, int64_t kernel = 3,
                                     int64_t dilation = 1);

/** 1x1 convolution with bias, neither norm nor activation, initialised as torch.nn.Conv2d is. */
std::shared_ptr<ConvUnit> make_plain(int64_t in, int64_t out);

/** Bilinear resize with half-pixel centres. */
at::Tensor bilinear_to(const at::Tensor& x, int64_t height, int64_t width);

/** The bottom modules "deeplab_pyramid" and "deeplab_backbone". */
std::shared_ptr<MaskBranch> make_deeplab_bottom(const BlendMaskConfig& config, int64_t in,
                                                const std::vector<int64_t>& tap_channels,
                                                const MaskBranchOptions& options);

}  // namespace instseg
