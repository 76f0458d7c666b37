// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "instseg/model.h"

namespace instseg {

/** FCOS whose instances blend bases of the image by attention maps of their own (Chen et al., BlendMask, CVPR
 * 2020). */
std::shared_ptr<Model> make_blendmask(const ModelConfig& config);

}  // namespace instseg
