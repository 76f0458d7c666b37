// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace instseg {

/** What this build can do. */
struct BuildInfo {
  std::string version;                      // of instseg
  std::string torch_version;                // libtorch this build was compiled against, "2.13.0"
  std::string compiler;                     // name and version
  bool cuda_kernels = false;                // CUDA kernels were compiled in
  std::vector<std::string> cuda_archs;      // e.g. {"80", "90"}
  bool cuda_available = false;              // libtorch sees a usable GPU now
  std::vector<std::string> image_decoders;  // e.g. {"jpeg", "png"}
  std::string cpu_capability;               // instruction set libtorch uses here, e.g. "AVX512"
  bool cpu_bf16 = false;                    // native bfloat16 arithmetic
};

BuildInfo build_info();

}  // namespace instseg
