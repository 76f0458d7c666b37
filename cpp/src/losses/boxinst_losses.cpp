// SPDX-License-Identifier: Apache-2.0
#include "losses/boxinst_losses.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

#include "instseg/ops/dice_loss.h"
#include "kernels/mask_runs.h"

namespace instseg {
namespace {

/** Visits the neighbours of a pattern, row-major without the center, as (dy, dx). */
template <class Visit>
void for_neighbors(const BoxInstConfig& config, const Visit& visit) {
  const int64_t half = config.pairwise_size / 2;
  for (int64_t row = -half; row <= half; ++row) {
    for (int64_t column = -half; column <= half; ++column) {
      if (row != 0 || column != 0) visit(row * config.pairwise_dilation, column * config.pairwise_dilation);
    }
  }
}

/** The value `dy` rows below and `dx` columns right of every pixel, 0 beyond the map. */
at::Tensor shifted(const at::Tensor& map, int64_t dy, int64_t dx) {
  const int64_t up = std::max<int64_t>(-dy, 0), down = std::max<int64_t>(dy, 0);
  const int64_t left = std::max<int64_t>(-dx, 0), right = std::max<int64_t>(dx, 0);
  const std::array<int64_t, 4> padding = {left, right, up, down};
  const auto padded = at::constant_pad_nd(map, padding);
  return padded.narrow(-2, up + dy, map.size(-2)).narrow(-1, left + dx, map.size(-1));
}

/** Grey levels [B, 3, H, W] of the images in RGB, 0 in the padding. */
at::Tensor original_pixels(const ImageBatch& batch, const InputConfig& input) {
  const auto options = batch.pixels.options();
  const auto mean = at::tensor(input.mean, options).view({1, 3, 1, 1});
  const auto std = at::tensor(input.std, options).view({1, 3, 1, 1});
  // Rounding undoes the rounding of the normalisation exactly.
  auto pixels = (batch.pixels * std + mean).round().clamp(0, 255);
  for (size_t i = 0; i < batch.sizes.size(); ++i) {
    const auto [height, width] = batch.sizes[i];
    auto image = pixels[static_cast<int64_t>(i)];
    image.narrow(1, height, image.size(1) - height).zero_();
    image.narrow(2, width, image.size(2) - width).zero_();
  }
  return input.channel_order == "bgr" ? pixels.flip(1) : pixels;
}

/** CIE Lab (D65) of RGB 0..255, both [B, 3, h, w]; computed in double. */
at::Tensor lab_of(const at::Tensor& rgb) {
  const auto v = rgb.to(at::kDouble) / 255;
  const auto linear = at::where(v > 0.04045, at::pow((v + 0.055) / 1.055, 2.4), v / 12.92);
  const auto r = linear.select(1, 0), g = linear.select(1, 1), b = linear.select(1, 2);
  const auto curve = [](const at::Tensor& t) {
    return at::where(t > 0.008856, at::pow(t, 1.0 / 3), 7.787 * t + 16.0 / 116);
  };
  const auto x = curve((0.412453 * r + 0.357580 * g + 0.180423 * b) / 0.95047);
  const auto y = curve(0.212671 * r + 0.715160 * g + 0.072169 * b);
  const auto z = curve((0.019334 * r + 0.119193 * g + 0.950227 * b) / 1.08883);
  return at::stack({116 * y - 16, 500 * (x - y), 200 * (y - z)}, 1).to(at::kFloat);
}

/** 1 where the color of a mask pixel counts: inside the image, above its lowest rows; [B, 1, h, w]. */
at::Tensor valid_pixels(const ImageBatch& batch, const BoxInstConfig& config, int64_t stride) {
  const int64_t images = batch.pixels.size(0), height = batch.pixels.size(2), width = batch.pixels.size(3);
  const int64_t offset = stride / 2, h = height / stride, w = width / stride;
  auto valid = at::zeros({images, 1, h, w}, batch.pixels.options());
  for (int64_t i = 0; i < images; ++i) {
    const auto size = batch.sizes[i];
    const int64_t removed = config.bottom_pixels_removed * size.height / batch.original_sizes[i].height;
    // Mask pixel k samples image pixel k * stride + offset.
    const auto samples = [&](int64_t end) { return kernels::sampled_size(end, stride, offset); };
    const int64_t rows = std::min(samples(std::max<int64_t>(size.height - removed, 0)), h);
    valid[i].narrow(1, 0, rows).narrow(2, 0, std::min(samples(size.width), w)).fill_(1);
  }
  return valid;
}

}  // namespace

at::Tensor color_similarity(const ImageBatch& batch, const InputConfig& input, const BoxInstConfig& config,
                            int64_t stride) {
  const auto means = at::avg_pool2d(original_pixels(batch, input).contiguous(), stride, stride);
  const auto lab = lab_of(means.floor());
  const auto valid = valid_pixels(batch, config, stride);
  std::vector<at::Tensor> maps;
  for_neighbors(config, [&](int64_t dy, int64_t dx) {
    const auto distance = (lab - shifted(lab, dy, dx)).square().sum(1).sqrt();
    maps.push_back(at::exp(-0.5 * distance) * shifted(valid, dy, dx).squeeze(1));
  });
  return at::stack(maps, 1);
}

at::Tensor projection_loss(const at::Tensor& logits, const at::Tensor& boxes, double eps) {
  const auto along = [&](int64_t axis) {
    // The sigmoid keeps the order: the largest probability is that of the largest logit.
    return dice_loss(std::get<0>(logits.max(axis)), boxes.amax(axis).to(at::kByte), {}, eps);
  };
  return along(1) + along(2);
}

at::Tensor pairwise_loss(const at::Tensor& logits, const at::Tensor& similarity, const at::Tensor& boxes,
                         const BoxInstConfig& config, const at::Tensor& images) {
  const auto inside = at::log_sigmoid(logits), outside = at::log_sigmoid(-logits);
  at::Tensor sum = logits.sum() * 0, pairs = at::zeros({}, logits.options());
  int64_t k = 0;
  for_neighbors(config, [&](int64_t dy, int64_t dx) {
    auto similar = similarity.select(1, k++).ge(config.color_threshold);
    if (images.defined()) similar = similar.index_select(0, images);
    const auto weight = similar * boxes;
    const auto same = at::logaddexp(inside + shifted(inside, dy, dx), outside + shifted(outside, dy, dx));
    sum = sum - (weight * same).sum();
    pairs = pairs + weight.sum();
  });
  return sum / pairs.clamp_min(1);
}

}  // namespace instseg
