// SPDX-License-Identifier: Apache-2.0
#include "instseg/preprocess.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "instseg/error.h"
#include "kernels/normalize.h"
#include "ops/cuda_stream.h"

namespace instseg {
namespace {

// Spec of the detectron2 family: two multiplications, rounded once at the end.
std::pair<double, double> shortest_edge(double h, double w, double short_side, double long_side) {
  const double scale = short_side / std::min(h, w);
  double new_h = h < w ? short_side : scale * h;
  double new_w = h < w ? scale * w : short_side;
  if (std::max(new_h, new_w) > long_side) {
    const double shrink = long_side / std::max(new_h, new_w);
    new_h *= shrink;
    new_w *= shrink;
  }
  return {std::floor(new_h + 0.5), std::floor(new_w + 0.5)};
}

void check_image(const at::Tensor& image, size_t index, const at::Device& device) {
  check<ValueError>(image.defined() && image.dim() == 3 && image.size(2) == 3 && image.numel() > 0,
                    "[make_batch] image ", index, " is not an RGB image [H, W, 3]",
                    image.defined() ? join(", got ", image.sizes()) : std::string(" but undefined"));
  check<ValueError>(image.scalar_type() == at::kByte || image.scalar_type() == at::kFloat,
                    "[make_batch] image ", index, " must be uint8 or float32 in 0..255, got ",
                    image.scalar_type());
  check<ValueError>(image.device() == device && (device.is_cpu() || device.is_cuda()), "[make_batch] image ",
                    index, " is on ", image.device().str(), ", the first on ", device.str(),
                    "; needs one CPU or CUDA device");
}

int64_t round_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor * divisor; }

kernels::Normalization normalization(const InputConfig& config) {
  kernels::Normalization how{};
  for (int c = 0; c < 3; ++c) {
    how.mean[c] = static_cast<float>(config.mean[c]);
    how.std[c] = static_cast<float>(config.std[c]);
    how.source[c] = config.channel_order == "bgr" ? 2 - c : c;
  }
  return how;
}

template <class T>
void normalize_into(const at::Tensor& image, const kernels::Normalization& how, float* out) {
  const at::Tensor in = image.contiguous();
  if (in.is_cuda()) {
    kernels::normalize_cuda(in.const_data_ptr<T>(), how, out, current_stream(in));
  } else {
    kernels::normalize(in.const_data_ptr<T>(), how, out);
  }
}

}  // namespace

ImageSize network_size(const ImageSize& original, const InputConfig& config) {
  check<ValueError>(original.height >= 1 && original.width >= 1,
                    "[network_size] image size must be at least 1x1, got ", original.height, "x",
                    original.width);
  config.check();
  const auto h = static_cast<double>(original.height), w = static_cast<double>(original.width);
  const auto short_side = static_cast<double>(std::min(config.short_side, config.long_side));
  const auto long_side = static_cast<double>(config.long_side);

  std::pair<double, double> size;
  if (config.resize == "pillow") {
    size = shortest_edge(h, w, static_cast<double>(config.short_side), long_side);
  } else {
    const double factor = std::min(long_side / std::max(h, w), short_side / std::min(h, w));
    size = config.resize == "opencv" ? std::pair{std::floor(h * factor + 0.5), std::floor(w * factor + 0.5)}
                                     : std::pair{std::floor(h * factor), std::floor(w * factor)};
  }
  // The rules give 0 for slivers such as 1x5000; a side keeps at least one pixel.
  return {std::max<int64_t>(1, static_cast<int64_t>(size.first)),
          std::max<int64_t>(1, static_cast<int64_t>(size.second))};
}

ImageBatch make_batch(const std::vector<at::Tensor>& images, const InputConfig& config,
                      std::vector<ImageSize> original_sizes) {
  check<ValueError>(!images.empty(), "[make_batch] needs at least one image");
  check<ValueError>(original_sizes.empty() || original_sizes.size() == images.size(), "[make_batch] got ",
                    images.size(), " images and ", original_sizes.size(), " original sizes");
  config.check();
  const at::Device device = images[0].defined() ? images[0].device() : at::Device(at::kCPU);
  ImageBatch batch;
  int64_t height = 0, width = 0;
  for (size_t i = 0; i < images.size(); ++i) {
    check_image(images[i], i, device);
    batch.sizes.push_back({images[i].size(0), images[i].size(1)});
    height = std::max(height, images[i].size(0));
    width = std::max(width, images[i].size(1));
  }
  batch.original_sizes = original_sizes.empty() ? batch.sizes : std::move(original_sizes);

  kernels::Normalization how = normalization(config);
  how.padded_height = round_up(height, config.size_divisor);
  how.padded_width = round_up(width, config.size_divisor);
  batch.pixels =
      at::empty({static_cast<int64_t>(images.size()), 3, how.padded_height, how.padded_width},
                images[0].options().dtype(at::kFloat).memory_format(at::MemoryFormat::ChannelsLast));
  const c10::DeviceGuard guard(device);
  float* out = batch.pixels.mutable_data_ptr<float>();
  for (const at::Tensor& image : images) {
    how.height = image.size(0);
    how.width = image.size(1);
    if (image.scalar_type() == at::kByte) {
      normalize_into<uint8_t>(image, how, out);
    } else {
      normalize_into<float>(image, how, out);
    }
    out += 3 * how.padded_height * how.padded_width;
  }
  return batch;
}

ImageBatch preprocess(const std::vector<at::Tensor>& images, const InputConfig& config) {
  std::vector<at::Tensor> resized;
  std::vector<ImageSize> sizes;
  for (size_t i = 0; i < images.size(); ++i) {
    const at::Tensor& image = images[i];
    check<ValueError>(image.defined() && image.dim() == 3 && image.size(2) == 3 && image.numel() > 0,
                      "[preprocess] image ", i, " is not an RGB image [H, W, 3]",
                      image.defined() ? join(", got ", image.sizes()) : std::string(" but undefined"));
    sizes.push_back({image.size(0), image.size(1)});
    resized.push_back(resize_image(image, network_size(sizes.back(), config), config.resize));
  }
  return make_batch(resized, config, sizes);
}

}  // namespace instseg
