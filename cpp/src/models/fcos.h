// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "instseg/model.h"

namespace instseg {

/** Backbone, pyramid and FCOS head: boxes without anchors (Tian et al., FCOS, TPAMI 2020). */
std::shared_ptr<Model> make_fcos(const ModelConfig& config);

}  // namespace instseg
