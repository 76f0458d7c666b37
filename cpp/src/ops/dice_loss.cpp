// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/dice_loss.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "kernels/dice_loss.h"
#include "ops/checks.h"
#include "ops/cuda_stream.h"

namespace instseg {
namespace {

using kernels::DiceInput;

constexpr const char* kName = "dice_loss";
constexpr int64_t kGrain = 1 << 15;  // pixels per task

DiceInput input_of(const at::Tensor& maps, const at::Tensor& masks, const at::Tensor& index, bool logits) {
  const int64_t count = maps.size(0);
  return {maps.const_data_ptr(),
          scalar_kind_of(kName, "maps", maps),
          static_cast<const uint8_t*>(masks.const_data_ptr()),
          index.defined() ? index.const_data_ptr<int64_t>() : nullptr,
          count,
          count > 0 ? maps.numel() / count : 0,
          logits};
}

// function(begin, end) over maps; the sums of a map never depend on the threads.
template <class Function>
void for_maps(const DiceInput& input, const Function& function) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(input.pixels, 1));
  at::parallel_for(0, input.maps, grain, function);
}

/** sum(p g) and sum(p^2) + sum(g) of each map, [P, 2]. */
at::Tensor sums_of(const at::Tensor& maps, const DiceInput& input) {
  at::Tensor sums = at::empty({input.maps, 2}, maps.options().dtype(at::kFloat));
  float* out = sums.mutable_data_ptr<float>();
  if (maps.is_cuda()) {
    const c10::DeviceGuard guard(maps.device());
    kernels::dice_sums_cuda(input, out, current_stream(maps));
  } else {
    for_maps(input, [&](int64_t begin, int64_t end) { kernels::dice_sums_cpu(input, begin, end, out); });
  }
  return sums;
}

at::Tensor gradient(const at::Tensor& maps, const DiceInput& input, const at::Tensor& slopes) {
  at::Tensor grad = at::empty_like(maps);
  void* out = grad.mutable_data_ptr();
  const float* factors = slopes.const_data_ptr<float>();
  if (maps.is_cuda()) {
    const c10::DeviceGuard guard(maps.device());
    kernels::dice_backward_cuda(input, factors, out, current_stream(maps));
  } else {
    for_maps(input, [&](int64_t begin, int64_t end) {
      kernels::dice_backward_cpu(input, factors, begin, end, out);
    });
  }
  return grad;
}

// The backward pass computes the probabilities again: cheaper than keeping them.
struct DiceLoss : torch::autograd::Function<DiceLoss> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& maps,
                            const at::Tensor& masks, const std::optional<at::Tensor>& index, double eps,
                            bool logits) {
    const at::Tensor rows = index.value_or(at::Tensor());
    const at::Tensor sums = sums_of(maps, input_of(maps, masks, rows, logits));
    const at::Tensor overlap = sums.select(1, 0), bottom = sums.select(1, 1) + eps;
    context->save_for_backward({maps, masks, rows, overlap, bottom});
    context->saved_data["logits"] = logits;
    return 1 - 2 * overlap / bottom;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &maps = saved[0], &overlap = saved[3], &bottom = saved[4];
    const DiceInput input = input_of(maps, saved[1], saved[2], context->saved_data["logits"].toBool());
    const at::Tensor by_g = grads[0].to(at::kFloat) * -2 / bottom;
    // d(p^2) is 2 p dp.
    const at::Tensor by_p = by_g * -2 * overlap / bottom;
    return {gradient(maps, input, at::stack({by_p, by_g}, 1)), at::Tensor(), at::Tensor(), at::Tensor(),
            at::Tensor()};
  }
};

void check_index(const at::Tensor& index, int64_t maps, int64_t masks, at::Device device) {
  check_vector(kName, "index", index, maps);
  check_dtype(kName, "index", index, at::kLong);
  check_same_device(kName, "index", index, device);
  if (!index.is_cpu()) return;  // looking would make the device wait
  const at::Tensor plain = index.contiguous();
  const int64_t* values = plain.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < maps; ++i) {
    check<ValueError>(values[i] >= 0 && values[i] < masks, "[", kName, "] index[", i, "] is ", values[i],
                      "; there are ", masks, " masks, numbered from 0");
  }
}

}  // namespace

at::Tensor dice_loss(const at::Tensor& maps, const at::Tensor& masks, const at::Tensor& index, double eps,
                     bool logits) {
  check_defined(kName, "maps", maps);
  check_defined(kName, "masks", masks);
  check<ValueError>(
      maps.dim() >= 2 && masks.dim() == maps.dim() && masks.sizes().slice(1) == maps.sizes().slice(1), "[",
      kName, "] maps have shape ", maps.sizes(), " and masks ", masks.sizes(),
      "; expected [P, ...] and [G, ...] of one inner shape");
  scalar_kind_of(kName, "maps", maps);
  check<TypeError>(masks.scalar_type() == at::kByte || masks.scalar_type() == at::kBool, "[", kName,
                   "] masks are ", masks.scalar_type(), "; convert them to uint8 or bool");
  check_device(kName, maps.device());
  check_same_device(kName, "masks", masks, maps.device());
  check<ValueError>(eps > 0 && std::isfinite(eps), "[", kName, "] eps is ", eps, "; use a value > 0");
  if (index.defined()) {
    check_index(index, maps.size(0), masks.size(0), maps.device());
  } else {
    check<ValueError>(masks.size(0) == maps.size(0), "[", kName, "] ", masks.size(0), " masks for ",
                      maps.size(0), " maps; give an index or one mask for each");
  }
  const auto rows = index.defined() ? std::optional<at::Tensor>(index.contiguous()) : std::nullopt;
  // Outside of the function, so that autograd undoes the copy.
  return DiceLoss::apply(maps.contiguous(), masks.contiguous(), rows, eps, logits);
}

}  // namespace instseg
