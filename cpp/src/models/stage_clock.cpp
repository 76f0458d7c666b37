// SPDX-License-Identifier: Apache-2.0
#include "models/stage_clock.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <chrono>

namespace instseg {
namespace {

double now() {
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::milli>(time).count();
}

}  // namespace

StageClock::StageClock(const at::Tensor& tensor) : device_(tensor.device()), start_(now()) {}

double StageClock::lap() {
  if (device_.is_cuda()) {
    const c10::impl::VirtualGuardImpl guard(device_.type());
    guard.synchronizeStream(guard.getStream(device_));
  }
  const double end = now(), elapsed = end - start_;
  start_ = end;
  return elapsed;
}

}  // namespace instseg
