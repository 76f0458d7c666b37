// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/rasterize.h"

#include <cmath>

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::expect_error;
using test::same;

// The rule of the COCO API, step by step on a bitmap: the outline as a chain of subpixels, each of whose
// steps across the middle of a column toggles the pixels of that column from there on.
at::Tensor plain_polygon(const std::vector<double>& xy, const ImageSize& size) {
  std::vector<std::pair<int64_t, int64_t>> chain;
  const size_t points = xy.size() / 2;
  const auto subpixel = [&](size_t i) { return static_cast<int64_t>(5 * xy[i] + 0.5); };
  for (size_t i = 0; i < points; ++i) {
    const size_t next = (i + 1) % points;
    const int64_t x0 = subpixel(2 * i), y0 = subpixel(2 * i + 1), x1 = subpixel(2 * next),
                  y1 = subpixel(2 * next + 1);
    const int64_t dx = std::abs(x1 - x0), dy = std::abs(y1 - y0), steps = std::max(dx, dy);
    for (int64_t step = 0; step <= steps && steps > 0; ++step) {
      // Distances are counted from the end with the lower coordinate along the longer side.
      const bool turned = dx >= dy ? x0 > x1 : y0 > y1;
      const int64_t t = turned ? steps - step : step;
      const int64_t fx = turned ? x1 : x0, fy = turned ? y1 : y0, tx = turned ? x0 : x1,
                    ty = turned ? y0 : y1;
      const double slope = dx >= dy ? static_cast<double>(ty - fy) / static_cast<double>(dx)
                                    : static_cast<double>(tx - fx) / static_cast<double>(dy);
      const double across = static_cast<double>(dx >= dy ? fy : fx) + slope * static_cast<double>(t) + 0.5;
      chain.emplace_back(dx >= dy ? fx + t : static_cast<int64_t>(across),
                         dx >= dy ? static_cast<int64_t>(across) : fy + t);
    }
  }
  at::Tensor bitmap = at::zeros({size.height, size.width}, at::kByte);
  for (size_t i = 1; i < chain.size(); ++i) {
    const int64_t x = std::min(chain[i].first, chain[i - 1].first);
    if (chain[i].first == chain[i - 1].first || x < 2 || x % 5 != 2 || x / 5 >= size.width) continue;
    const int64_t y = std::min(chain[i].second, chain[i - 1].second);
    const double row = std::ceil((static_cast<double>(y) + 0.5) / 5 - 0.5);
    const auto first = static_cast<int64_t>(std::clamp(row, 0.0, static_cast<double>(size.height)));
    if (first == size.height) continue;
    bitmap.narrow(0, first, size.height - first).select(1, x / 5).bitwise_xor_(1);
  }
  return bitmap;
}

at::Tensor plain_mask(const std::variant<Polygons, Rle>& item, const ImageSize& canvas) {
  at::Tensor bitmap = at::zeros({canvas.height, canvas.width}, at::kByte);
  if (const Rle* rle = std::get_if<Rle>(&item)) {
    bitmap.narrow(0, 0, rle->size.height).narrow(1, 0, rle->size.width).copy_(rle_decode(*rle));
    return bitmap;
  }
  for (const auto& polygon : std::get<Polygons>(item)) bitmap.bitwise_or_(plain_polygon(polygon, canvas));
  return bitmap;
}

std::vector<double> random_polygon(const ImageSize& size, double margin) {
  const int64_t points = at::randint(3, 12, {1}).item<int64_t>();
  std::vector<double> xy;
  for (int64_t i = 0; i < points; ++i) {
    for (const int64_t side : {size.width, size.height}) {
      const double at = at::rand({1}, at::kDouble).item<double>();
      xy.push_back((at * (1 + 2 * margin) - margin) * static_cast<double>(side));
    }
  }
  return xy;
}

MaskTargets random_masks(const ImageSize& size, int64_t count) {
  MaskTargets masks(size);
  for (int64_t i = 0; i < count; ++i) {
    if (i % 3 == 2) {
      const at::Tensor coarse = at::rand({1, 1, 5, 4}) > 0.6;
      const at::Tensor bitmap = at::upsample_nearest2d(coarse.to(at::kFloat), {size.height, size.width});
      masks.add(rle_encode(bitmap[0][0].to(at::kBool)));
    } else {
      masks.add(Polygons{random_polygon(size, i % 2 ? 0.4 : 0), random_polygon(size, 0.2)});
    }
  }
  return masks;
}

TEST(Rasterize, PolygonsMatchTwin) {
  at::manual_seed(3);
  for (int64_t i = 0; i < 200; ++i) {
    const ImageSize size{at::randint(1, 60, {1}).item<int64_t>(), at::randint(1, 60, {1}).item<int64_t>()};
    MaskTargets masks(size);
    masks.add(Polygons{random_polygon(size, i % 2 ? 0.5 : 0)});
    EXPECT_TRUE(same(rle_decode(masks.rle(size)[0]), plain_mask(masks.items()[0], size))) << i;
  }
}

TEST(Rasterize, SamplesCentersAreasMatchTwin) {
  at::manual_seed(4);
  const ImageSize size{45, 70}, canvas{64, 96};
  const MaskTargets masks = random_masks(size, 40);
  const RasterizedMasks out = rasterize(masks, canvas, 4, 2);
  for (int64_t i = 0; i < masks.size(); ++i) {
    const at::Tensor bitmap = plain_mask(masks.items()[i], canvas);
    EXPECT_TRUE(same(out.sampled[i], bitmap.slice(0, 2, std::nullopt, 4).slice(1, 2, std::nullopt, 4)));
    EXPECT_EQ(out.areas[i].item<int64_t>(), bitmap.sum().item<int64_t>());
    const at::Tensor inside = at::nonzero(bitmap).to(at::kDouble);
    const at::Tensor center = inside.size(0) ? inside.mean(0).flip(0) : at::zeros({2}, at::kDouble);
    EXPECT_LT(test::difference(out.centers[i], center), 1e-5);
  }
}

TEST(Rasterize, ClassMapsMatchTwin) {
  at::manual_seed(5);
  const ImageSize size{45, 70}, canvas{64, 96};
  const MaskTargets masks = random_masks(size, 30);
  const at::Tensor labels = at::randint(0, 9, {30}, at::kLong);
  at::Tensor last = at::zeros({size.height, size.width}, at::kByte);
  at::Tensor smallest = at::full({canvas.height, canvas.width}, -1, at::kLong);
  at::Tensor best = at::full({canvas.height, canvas.width}, 1'000'000, at::kLong);
  for (int64_t i = 0; i < masks.size(); ++i) {
    last.masked_fill_(plain_mask(masks.items()[i], size).to(at::kBool), labels[i].item<int64_t>() + 1);
    const at::Tensor bitmap = plain_mask(masks.items()[i], canvas);
    const at::Tensor smaller = bitmap.to(at::kBool).logical_and(best > bitmap.sum());
    smallest.masked_fill_(smaller, labels[i]);
    best.masked_fill_(smaller, bitmap.sum());
  }
  EXPECT_TRUE(same(class_map(masks, labels), last));
  EXPECT_TRUE(same(smallest_class_map(masks, labels, canvas, 8, 4),
                   smallest.slice(0, 4, std::nullopt, 8).slice(1, 4, std::nullopt, 8)));
}

TEST(Rasterize, InBoxesMovesAndScalesPolygons) {
  at::manual_seed(6);
  const ImageSize size{45, 70};
  MaskTargets masks(size);
  for (int64_t i = 0; i < 20; ++i) masks.add(Polygons{random_polygon(size, 0.2), random_polygon(size, 0)});
  const at::Tensor low = at::rand({20, 2}) * 40, boxes = at::cat({low, low + at::rand({20, 2}) * 50}, 1);
  const at::Tensor out = rasterize_in_boxes(masks, boxes, 14);
  for (int64_t i = 0; i < masks.size(); ++i) {
    const at::Tensor box = boxes[i].to(at::kDouble);
    Polygons moved = std::get<Polygons>(masks.items()[i]);
    for (auto& polygon : moved) {
      for (size_t k = 0; k < polygon.size(); ++k) {
        const auto axis = static_cast<int64_t>(k % 2);
        const double from = box[axis].item<double>(), to = box[axis + 2].item<double>();
        polygon[k] = (polygon[k] - from) * (14 / std::max(to - from, 0.1));
      }
    }
    EXPECT_TRUE(same(out[i], plain_mask(moved, {14, 14})));
  }
}

TEST(Rasterize, InBoxesSamplesRunLengths) {
  // Samples of bins of whole pixels lie on the middles of the pixels.
  at::Tensor bitmap = at::zeros({8, 8}, at::kByte);
  bitmap.narrow(0, 2, 3).narrow(1, 4, 2).fill_(1);
  bitmap[7][0] = 1;
  MaskTargets masks({8, 8});
  masks.add(rle_encode(bitmap));
  const at::Tensor whole = at::tensor({0.f, 0.f, 8.f, 8.f}).view({1, 4});
  EXPECT_TRUE(same(rasterize_in_boxes(masks, whole, 8)[0], bitmap));
  // Bins of 2 x 2 pixels: all of one and half of the next are inside, a quarter is not.
  at::Tensor expected = at::zeros({4, 4}, at::kByte);
  expected.narrow(0, 1, 2).select(1, 2).fill_(1);
  EXPECT_TRUE(same(rasterize_in_boxes(masks, whole, 4)[0], expected));
  EXPECT_EQ(rasterize_in_boxes(masks, at::zeros({1, 4}), 8).sum().item<int64_t>(), 0);
}

TEST(Rasterize, RejectsBadInput) {
  MaskTargets masks({8, 8});
  masks.add(Polygons{{0, 0, 4, 0, 4, 4}});
  const at::Tensor boxes = at::ones({1, 4}), labels = at::zeros({1}, at::kLong);
  expect_error<ValueError>([&] { rasterize(masks, {7, 8}, 4, 2); }, "canvas 7x8 is smaller");
  expect_error<ValueError>([&] { rasterize(masks, {8, 8}, 0, 2); }, "stride is 0");
  expect_error<ValueError>([&] { rasterize_in_boxes(masks, boxes.narrow(0, 0, 0), 14); },
                           "0 boxes for 1 masks");
  expect_error<ValueError>([&] { rasterize_in_boxes(masks, boxes, 5000); }, "size is 5000");
  expect_error<ValueError>([&] { class_map(masks, labels - 1); }, "label -1 of mask 0");
  expect_error<ValueError>([&] { resize_nearest(labels, {1, 1}); }, "expected [H, W]");
}

}  // namespace
}  // namespace instseg
