// SPDX-License-Identifier: Apache-2.0
#include "ops/winograd_conv.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>

#include "kernels/winograd.h"
#include "ops/checks.h"

namespace instseg {
namespace {

using kernels::kWinogradPoints;
using kernels::TileGrid;
using kernels::TileRange;

constexpr const char* kName = "winograd_conv";
constexpr int64_t kChunk = 128;                        // tiles whose values are in the cache together
constexpr int64_t kGrain = 8;                          // tiles of a thread at least
constexpr int64_t kMinChannels = 64, kMinTiles = 256;  // below, transforms cost more than they save

TileGrid grid_of(const at::Tensor& map) { return {map.size(0), map.size(2), map.size(3), map.size(1)}; }

at::Tensor map_like(const at::Tensor& x, int64_t channels) {
  return at::empty({x.size(0), channels, x.size(2), x.size(3)},
                   x.options().memory_format(at::MemoryFormat::ChannelsLast));
}

/** The matrix [16, 9] that turns a kernel g into G g G^T; `reversed`: into that of the kernel turned by 180
 * degrees. */
at::Tensor kernel_transform(bool reversed) {
  constexpr double g[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
  std::array<float, 16 * 9> matrix;
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 9; ++k) {
      matrix[9 * i + (reversed ? 8 - k : k)] = static_cast<float>(g[i / 4][k / 3] * g[i % 4][k % 3]);
    }
  }
  return at::tensor(at::ArrayRef<float>(matrix)).view({16, 9});
}

/** Calls function(first tile, count) for chunks of tiles, one after the other. */
template <class Function>
void for_chunks(const TileGrid& grid, const Function& function) {
  for (int64_t first = 0; first < grid.tiles(); first += kChunk) {
    function(first, std::min(kChunk, grid.tiles() - first));
  }
}

at::Tensor values_of(int64_t tiles, int64_t channels, const at::Tensor& like) {
  return at::empty({kWinogradPoints, tiles, channels}, like.options().memory_format(std::nullopt));
}

void transform(void (*kernel)(const float*, const TileGrid&, const TileRange&, float*), const at::Tensor& map,
               const TileGrid& grid, int64_t first, at::Tensor& values) {
  const float* from = map.const_data_ptr<float>();
  float* to = values.mutable_data_ptr<float>();
  const int64_t count = values.size(1);
  at::parallel_for(0, count, kGrain,
                   [&](int64_t begin, int64_t end) { kernel(from, grid, {first, begin, end, count}, to); });
}

/** Correlates x with kernels given as values [16, C, O]. */
at::Tensor correlate(const at::Tensor& x, const at::Tensor& kernels) {
  const int64_t out_channels = kernels.size(2);
  at::Tensor y = map_like(x, out_channels);
  const TileGrid in = grid_of(x), out = grid_of(y);
  float* pixels = y.mutable_data_ptr<float>();
  at::Tensor inputs, products;
  for_chunks(in, [&](int64_t first, int64_t count) {
    if (!inputs.defined() || inputs.size(1) != count) {
      inputs = values_of(count, in.channels, x);
      products = values_of(count, out_channels, x);
    }
    transform(kernels::winograd_inputs_cpu, x, in, first, inputs);
    at::bmm_out(products, inputs, kernels);
    const float* values = products.const_data_ptr<float>();
    at::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
      kernels::winograd_outputs_cpu(values, out, {first, begin, end, count}, pixels);
    });
  });
  return y;
}

at::Tensor grad_input(const at::Tensor& grad, const at::Tensor& weight) {
  const int64_t out = weight.size(0), in = weight.size(1);
  const at::Tensor taps = weight.permute({2, 3, 0, 1}).reshape({9, in * out});
  return correlate(grad, at::mm(kernel_transform(true), taps).view({kWinogradPoints, out, in}));
}

at::Tensor grad_weight(const at::Tensor& x, const at::Tensor& grad) {
  const TileGrid in = grid_of(x), out = grid_of(grad);
  at::Tensor sum = at::zeros({kWinogradPoints, in.channels, out.channels}, x.options());
  at::Tensor inputs, slopes;
  for_chunks(in, [&](int64_t first, int64_t count) {
    if (!inputs.defined() || inputs.size(1) != count) {
      inputs = values_of(count, in.channels, x);
      slopes = values_of(count, out.channels, x);
    }
    transform(kernels::winograd_inputs_cpu, x, in, first, inputs);
    transform(kernels::winograd_slopes_cpu, grad, out, first, slopes);
    sum.baddbmm_(inputs.transpose(1, 2), slopes);
  });
  const at::Tensor taps =
      at::mm(kernel_transform(false).t(), sum.view({kWinogradPoints, in.channels * out.channels}));
  return taps.view({3, 3, in.channels, out.channels}).permute({3, 2, 0, 1});
}

struct WinogradConv : torch::autograd::Function<WinogradConv> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
    context->save_for_backward({x, weight});
    context->saved_data["bias"] = bias.has_value();
    // The direct form: activations, and which of them a ReLU lets through, stay those of inference.
    return at::conv2d(x, weight, bias, /*stride=*/1, /*padding=*/1);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    // A bias that is not there is no input.
    const bool by_bias = context->saved_data["bias"].toBool() && context->needs_input_grad(2);
    torch::autograd::variable_list out(3);
    if (at::GradMode::is_enabled()) {
      // Gradients of these gradients are wanted: the direct form has them.
      std::tie(out[0], out[1], out[2]) = at::convolution_backward(
          grads[0], x, weight, at::OptionalIntArrayRef(weight.size(0)), {1, 1}, {1, 1}, {1, 1}, false, {0, 0},
          1, {context->needs_input_grad(0), context->needs_input_grad(1), by_bias});
      return out;
    }
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const at::Tensor grad = grads[0].contiguous(at::MemoryFormat::ChannelsLast);
    if (context->needs_input_grad(0)) out[0] = grad_input(grad, weight);
    if (context->needs_input_grad(1)) {
      out[1] = grad_weight(x, grad).contiguous(weight.suggest_memory_format());
    }
    if (by_bias) out[2] = grad.sum({0, 2, 3});
    return out;
  }
};

void check_operand(const char* name, const at::Tensor& tensor) {
  check_defined(kName, name, tensor);
  check_dtype(kName, name, tensor, at::kFloat);
  check<ValueError>(tensor.is_cpu(), "[", kName, "] ", name, " is on ", tensor.device(),
                    "; other devices have convolutions of their own");
}

}  // namespace

at::Tensor winograd_conv(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  check_operand("x", x);
  check_operand("weight", weight);
  check<ValueError>(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3 && weight.numel() > 0,
                    "[", kName, "] weight has shape ", weight.sizes(), "; expected [O, C, 3, 3]");
  check<ValueError>(x.dim() == 4 && x.size(1) == weight.size(1), "[", kName, "] x has shape ", x.sizes(),
                    "; expected [N, ", weight.size(1), ", H, W]");
  if (bias.defined()) {
    check_operand("bias", bias);
    check_vector(kName, "bias", bias, weight.size(0));
  }
  const auto added = bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt;
  return WinogradConv::apply(x.contiguous(at::MemoryFormat::ChannelsLast), weight, added);
}

bool winograd_pays(const at::Tensor& x, const at::Tensor& weight) {
  return at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad()) && x.is_cpu() &&
         x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat && x.dim() == 4 &&
         !at::autocast::is_autocast_enabled(at::kCPU) && weight.size(2) == 3 && weight.size(3) == 3 &&
         weight.size(0) >= kMinChannels && weight.size(1) >= kMinChannels &&
         x.is_contiguous(at::MemoryFormat::ChannelsLast) && grid_of(x).tiles() >= kMinTiles;
}

}  // namespace instseg
