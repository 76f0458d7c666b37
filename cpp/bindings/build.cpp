// SPDX-License-Identifier: Apache-2.0
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include "instseg/version.h"

namespace py = pybind11;

namespace instseg {

namespace {

/** Read from the file by python/instseg/__init__.py before the module is loaded. */
[[gnu::used]] const char kTorchTag[] = "instseg-built-for-torch=" TORCH_VERSION ";";

py::dict build_info_dict() {
  const BuildInfo info = build_info();
  py::dict out;
  out["version"] = info.version;
  out["torch_version"] = info.torch_version;
  out["compiler"] = info.compiler;
  out["cuda_kernels"] = info.cuda_kernels;
  out["cuda_archs"] = info.cuda_archs;
  out["cuda_available"] = info.cuda_available;
  out["image_decoders"] = info.image_decoders;
  out["cpu_capability"] = info.cpu_capability;
  out["cpu_bf16"] = info.cpu_bf16;
  return out;
}

}  // namespace

void init_build(py::module_& m) { m.def("build_info", &build_info_dict, "What this build can do."); }

}  // namespace instseg
