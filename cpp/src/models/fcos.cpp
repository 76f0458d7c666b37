// SPDX-License-Identifier: Apache-2.0
#include "models/fcos.h"

#include "models/fcos_detector.h"

namespace instseg {

std::shared_ptr<Model> make_fcos(const ModelConfig& config) { return std::make_shared<FcosDetector>(config); }

}  // namespace instseg
