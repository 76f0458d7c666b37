// SPDX-License-Identifier: Apache-2.0
#include "instseg/version.h"

#include <ATen/Context.h>
#include <ATen/Version.h>
#include <torch/version.h>
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include <algorithm>

#include "instseg/error.h"
#include "instseg/image.h"
#include "kernels/cuda_info.h"

namespace instseg {
namespace {

std::string compiler_name() {
#if defined(__clang__)
  return join("clang ", __clang_major__, ".", __clang_minor__, ".", __clang_patchlevel__);
#elif defined(__GNUC__)
  return join("gcc ", __GNUC__, ".", __GNUC_MINOR__, ".", __GNUC_PATCHLEVEL__);
#else
  return "unknown";
#endif
}

// A list "80,90-real" without what says how each is embedded.
std::vector<std::string> split_archs(const std::string& list) {
  std::vector<std::string> archs;
  for (size_t begin = 0; begin < list.size();) {
    const size_t end = std::min(list.find_first_of(",; ", begin), list.size());
    if (end > begin) archs.push_back(list.substr(begin, std::min(list.find('-', begin), end) - begin));
    begin = end + 1;
  }
  return archs;
}

bool cpu_has_bf16() {
#if defined(__x86_64__) || defined(__i386__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#elif defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kHwcap2Bf16 = 1UL << 14;
  return (getauxval(AT_HWCAP2) & kHwcap2Bf16) != 0;
#else
  return false;
#endif
}

}  // namespace

BuildInfo build_info() {
  BuildInfo info;
  info.version = INSTSEG_VERSION;
  info.torch_version = TORCH_VERSION;
  info.compiler = compiler_name();
  info.cuda_kernels = kernels::cuda_compiled();
  if (info.cuda_kernels) info.cuda_archs = split_archs(INSTSEG_CUDA_ARCHS);
  info.cuda_available = at::hasCUDA();
  info.image_decoders = image_decoders();
  info.cpu_capability = at::get_cpu_capability();
  info.cpu_bf16 = cpu_has_bf16();
  return info;
}

}  // namespace instseg
