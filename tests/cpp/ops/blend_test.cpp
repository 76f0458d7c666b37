// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/blend.h"

#include <ATen/Parallel.h>

#include <limits>

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::difference;
using test::expect_error;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Samples {
  at::Tensor low, high, weight;  // [N, size] weight of `high`
  at::Tensor inside;             // [N, size]
};

// Aligned RoIAlign along one axis, coordinates in float32 as the originals have them.
Samples axis_samples(const at::Tensor& low, const at::Tensor& high, int64_t size, int64_t cells,
                     double scale) {
  const at::Tensor start = (low * scale - 0.5).unsqueeze(1), end = (high * scale - 0.5).unsqueeze(1);
  const at::Tensor bin = (end - start) / size, i = at::arange(size, low.options());
  const at::Tensor x = start + i * bin + 0.5 * bin;
  const at::Tensor place = x.clamp(0, cells - 1), index = place.floor();
  return {index.to(at::kLong), (index + 1).clamp_max(cells - 1).to(at::kLong),
          (place - index).to(at::kDouble), (x >= -1) & (x <= cells)};
}

// bases [B, K, H, W] -> [N, K, size, size] by gathers.
at::Tensor plain_roi_align(const at::Tensor& bases, const at::Tensor& boxes, const at::Tensor& images,
                           int64_t size, double scale) {
  const Samples x = axis_samples(boxes.select(1, 0), boxes.select(1, 2), size, bases.size(3), scale);
  const Samples y = axis_samples(boxes.select(1, 1), boxes.select(1, 3), size, bases.size(2), scale);
  const at::Tensor cells = bases.permute({0, 2, 3, 1});
  const auto read = [&](const at::Tensor& row, const at::Tensor& column) {
    return cells.index({images.view({-1, 1, 1}), row.unsqueeze(2), column.unsqueeze(1)});
  };
  const at::Tensor wx = x.weight.unsqueeze(1).unsqueeze(3), wy = y.weight.unsqueeze(2).unsqueeze(3);
  const at::Tensor top = (1 - wx) * read(y.low, x.low) + wx * read(y.low, x.high);
  const at::Tensor bottom = (1 - wx) * read(y.high, x.low) + wx * read(y.high, x.high);
  const at::Tensor inside = y.inside.unsqueeze(2) & x.inside.unsqueeze(1);
  return (((1 - wy) * top + wy * bottom) * inside.unsqueeze(3)).permute({0, 3, 1, 2});
}

struct Inputs {
  at::Tensor bases, boxes, images, attention;
  int64_t cells = 14, size = 56;
  double scale = 0.25;
};

at::Tensor plain_blend(const at::Tensor& bases, const at::Tensor& attention, const Inputs& in) {
  const int64_t n = in.boxes.size(0), channels = in.bases.size(1);
  const at::Tensor samples = plain_roi_align(bases, in.boxes, in.images, in.size, in.scale);
  const at::Tensor maps = attention.view({n, channels, in.cells, in.cells});
  const at::Tensor weights = at::upsample_bilinear2d(maps, {in.size, in.size}, false).softmax(1);
  return (samples * weights).sum(1);
}

// Boxes of all kinds on a network image of height x width px.
at::Tensor random_boxes(int64_t n, double height, double width) {
  const at::Tensor extent = at::tensor({width, height}).to(at::kFloat);
  const at::Tensor center = at::rand({n, 2}) * extent * 1.2 - extent * 0.1;
  const at::Tensor half = (at::rand({n, 2}) * 5).exp();
  return at::cat({center - half, center + half}, 1);
}

Inputs random_inputs(int64_t n, int64_t channels, int64_t cells = 14, int64_t size = 56) {
  const int64_t images = 3, height = 23, width = 37;
  return {at::randn({images, channels, height, width}),
          random_boxes(n, 4.0 * height, 4.0 * width),
          at::randint(images, {n}, at::kLong),
          at::randn({n, channels * cells * cells}) * 3,
          cells,
          size};
}

struct Outcome {
  at::Tensor logits, bases_grad, attention_grad;
};

// Logits, and the gradients of a fixed random combination of them.
template <class Function>
Outcome evaluate(const Function& function, const at::Tensor& bases, const at::Tensor& attention,
                 const at::Tensor& direction) {
  const at::Tensor b = bases.detach().requires_grad_(), a = attention.detach().requires_grad_();
  const at::Tensor logits = function(b, a);
  (logits * direction).sum().backward();
  return {logits.detach(), b.grad(), a.grad()};
}

double largest(const at::Tensor& x) { return x.numel() == 0 ? 0 : x.abs().max().item<double>(); }

class BlendTest : public test::DeviceTest {
 protected:
  at::Tensor run(const at::Tensor& bases, const at::Tensor& attention, const Inputs& in) const {
    return blend(bases, here(in.boxes), here(in.images), attention, in.cells, in.size, in.scale);
  }

  static void expect_close(const at::Tensor& ours, const at::Tensor& twin, double rounding,
                           const std::string& what) {
    EXPECT_LE(difference(ours, twin), rounding * (1 + largest(twin))) << what;
  }

  Outcome expect_twin(const Inputs& in, const std::string& what) const {
    const at::Tensor direction = at::randn({in.boxes.size(0), in.size, in.size});
    const auto ours = evaluate([&](const at::Tensor& b, const at::Tensor& a) { return run(b, a, in); },
                               here(in.bases), here(in.attention), here(direction));
    const auto twin =
        evaluate([&](const at::Tensor& b, const at::Tensor& a) { return plain_blend(b, a, in); },
                 in.bases.to(at::kDouble), in.attention.to(at::kDouble), direction.to(at::kDouble));
    EXPECT_EQ(ours.logits.scalar_type(), at::kFloat);
    EXPECT_EQ(ours.bases_grad.scalar_type(), in.bases.scalar_type());
    // Rounding an attention value of size a changes its weight by about 1e-7 a.
    const double rounding = 2e-6 + 1e-7 * largest(in.attention);
    expect_close(ours.logits, twin.logits, rounding, what);
    expect_close(ours.attention_grad, twin.attention_grad, rounding, what);
    const auto type = in.bases.scalar_type();
    expect_close(ours.bases_grad, twin.bases_grad,
                 type == at::kFloat      ? rounding
                 : type == at::kBFloat16 ? 4e-3
                                         : 5e-4,
                 what);
    return ours;
  }
};
INSTSEG_ON_DEVICES(BlendTest);

TEST_P(BlendTest, MatchesTwin) {
  for (const int64_t channels : {1, 4, 5, 9}) {
    expect_twin(random_inputs(40, channels), "K = " + std::to_string(channels));
  }
}

TEST_P(BlendTest, OtherSizes) {
  for (const auto& [cells, size] : std::vector<std::pair<int64_t, int64_t>>{
           {7, 28}, {5, 33}, {14, 14}, {1, 9}, {20, 7}, {28, 56}, {3, 1}, {1, 1}}) {
    const std::string what = std::to_string(cells) + " cells to " + std::to_string(size);
    expect_twin(random_inputs(12, 4, cells, size), what);
    expect_twin(random_inputs(12, 3, cells, size), what);
  }
}

TEST_P(BlendTest, OtherScale) {
  Inputs in = random_inputs(20, 4);
  in.boxes = in.boxes / 4;
  in.scale = 1;
  expect_twin(in, "scale 1");
}

TEST_P(BlendTest, HalfPrecisionBases) {
  for (const auto type : {at::kBFloat16, at::kHalf}) {
    Inputs in = random_inputs(30, 4);
    in.bases = in.bases.to(type);
    expect_twin(in, at::toString(type));
  }
}

TEST_P(BlendTest, BasesInAnyLayout) {
  Inputs in = random_inputs(20, 4);
  in.bases = in.bases.contiguous(at::MemoryFormat::ChannelsLast);
  EXPECT_TRUE(expect_twin(in, "channels-last").bases_grad.is_contiguous(at::MemoryFormat::ChannelsLast));
  in.bases = at::randn({4, 3, 37, 46}).transpose(0, 1).slice(3, 0, 46, 2).transpose(2, 3);
  expect_twin(in, "strided");
  in.attention = at::randn({784, 20}).t();
  in.boxes = random_boxes(40, 92, 148).slice(0, 0, 40, 2);
  expect_twin(in, "strided boxes and attention");
}

TEST_P(BlendTest, BoxesOnTheBorderAndDegenerate) {
  Inputs in = random_inputs(0, 4);                     // bases of 23 x 37 cells, 92 x 148 px
  in.boxes = at::tensor({-30.f, -20.f, 60.f,  50.f,    // over the top left corner
                         100.f, 60.f,  190.f, 120.f,   // over the bottom right corner
                         -90.f, 10.f,  -20.f, 40.f,    // all outside
                         10.f,  400.f, 40.f,  500.f,   // below
                         50.f,  30.f,  50.f,  60.f,    // no width
                         50.f,  30.f,  90.f,  30.f,    // no height
                         90.f,  60.f,  20.f,  10.f,    // negative sides
                         40.f,  40.f,  40.5f, 40.25f,  // within one cell
                         -2.f,  -2.f,  -2.f,  -2.f,    // sample at exactly -1, the last that counts
                         150.f, 94.f,  150.f, 94.f,    // sample at exactly the size, the last that counts
                         0.f,   0.f,   148.f, 92.f,    // everything
                         -4e5f, -4e5f, 4e5f,  4e5f,    // samples far apart
                         147.f, 91.f,  149.f, 93.f})   // on the last cell
                 .view({-1, 4});
  const int64_t n = in.boxes.size(0);
  in.images = at::arange(n, at::kLong) % 3;
  in.attention = at::randn({n, 4 * 14 * 14});
  const Outcome ours = expect_twin(in, "special boxes");
  for (const int64_t outside : {2, 3}) {
    EXPECT_EQ(largest(ours.logits[outside]), 0);
    EXPECT_EQ(largest(ours.attention_grad[outside]), 0);
  }
  for (const int64_t last : {8, 9}) EXPECT_GT(largest(ours.logits[last]), 0);
}

TEST_P(BlendTest, LargeAttentionIsStable) {
  Inputs in = random_inputs(10, 4);
  in.attention = in.attention * 100;
  expect_twin(in, "large attention");
}

TEST_P(BlendTest, OneBasisIsRoiAlign) {
  const Inputs in = random_inputs(15, 1);
  const at::Tensor expected = plain_roi_align(in.bases.to(at::kDouble), in.boxes, in.images, 56, 0.25);
  EXPECT_LE(difference(run(here(in.bases), here(in.attention), in), expected.select(1, 0)), 1e-5);
  EXPECT_EQ(largest(expect_twin(in, "one basis").attention_grad), 0);
}

TEST_P(BlendTest, NanStaysWhereItIs) {
  Inputs in = random_inputs(3, 4);
  in.boxes = at::tensor({8.f, 8.f, 80.f, 80.f}).repeat({3, 1});
  in.boxes[2].fill_(kNan);
  in.attention[1][2 * 196 + 100] = kNan;
  const at::Tensor logits = run(here(in.bases), here(in.attention), in).cpu();
  EXPECT_FALSE(logits[0].isnan().any().item<bool>());
  EXPECT_TRUE(logits[1].isnan().any().item<bool>());
  EXPECT_EQ(largest(logits[2]), 0);
}

TEST_P(BlendTest, NoInstances) {
  const Outcome ours = expect_twin(random_inputs(0, 4), "none");
  EXPECT_EQ(ours.logits.sizes(), at::IntArrayRef({0, 56, 56}));
  EXPECT_EQ(ours.bases_grad.sizes(), at::IntArrayRef({3, 4, 23, 37}));
  EXPECT_EQ(largest(ours.bases_grad), 0);
}

TEST_P(BlendTest, OnlyOneGradientIsWanted) {
  const Inputs in = random_inputs(10, 4);
  const at::Tensor bases = here(in.bases).requires_grad_(), attention = here(in.attention).requires_grad_();
  const at::Tensor direction = here(at::randn({10, 56, 56}));
  const auto gradient = [&](const at::Tensor& b, const at::Tensor& a, at::Tensor& leaf) {
    leaf.mutable_grad() = at::Tensor();
    (run(b, a, in) * direction).sum().backward();
    return leaf.grad().clone();
  };
  at::Tensor b = bases, a = attention;
  EXPECT_LE(difference(gradient(bases, attention, b), gradient(bases, attention.detach(), b)), 1e-5);
  EXPECT_LE(difference(gradient(bases, attention, a), gradient(bases.detach(), attention, a)), 0);
}

TEST_P(BlendTest, RejectsBadInput) {
  const Inputs in = random_inputs(3, 4);
  const at::Tensor bases = here(in.bases), boxes = here(in.boxes), images = here(in.images),
                   attention = here(in.attention);
  expect_error<ValueError>([&] { blend(bases[0], boxes, images, attention); }, "expected [B, K, H, W]");
  expect_error<ValueError>([&] { blend(bases.slice(1, 0, 0), boxes, images, attention); }, "not empty");
  expect_error<ValueError>([&] { blend(bases, boxes.slice(1, 0, 3), images, attention); }, "[3, 3]");
  expect_error<ValueError>([&] { blend(bases, boxes, images.slice(0, 1), attention); },
                           "images has shape [2]; expected [3]");
  expect_error<ValueError>([&] { blend(bases, boxes, images, attention, 7); }, "expected [3, 196]");
  expect_error<ValueError>([&] { blend(bases, boxes, images, attention.slice(0, 1)); }, "[2, 784]");
  expect_error<ValueError>([&] { blend(bases, boxes, images, attention, 0); }, "attention_size is 0");
  expect_error<ValueError>([&] { blend(bases, boxes, images, attention, 14, 5000); }, "size is 5000");
  expect_error<ValueError>([&] { blend(bases, boxes, images, attention, 14, 56, 0); }, "spatial_scale is 0");
  expect_error<TypeError>([&] { blend(bases.to(at::kDouble), boxes, images, attention); }, "bases is Double");
  expect_error<TypeError>([&] { blend(bases, boxes.to(at::kHalf), images, attention); }, "boxes is Half");
  expect_error<TypeError>([&] { blend(bases, boxes, images.to(at::kInt), attention); }, "images is Int");
  expect_error<TypeError>([&] { blend(bases, boxes, images, attention.to(at::kBFloat16)); },
                          "attention is BFloat16");
  expect_error<ValueError>([&] { blend({}, boxes, images, attention); }, "bases is missing");
}

TEST(BlendCpuTest, ImageMustExist) {
  const Inputs in = random_inputs(2, 4);
  for (const int64_t image : {-1, 3}) {
    expect_error<ValueError>(
        [&] { blend(in.bases, in.boxes, at::full({2}, image, at::kLong), in.attention); },
        "images[0] is " + std::to_string(image) + "; the batch has 3 images");
  }
}

TEST(BlendCpuTest, DoesNotDependOnTheThreads) {
  at::manual_seed(7);
  const Inputs in = random_inputs(60, 4);
  const at::Tensor direction = at::randn({60, 56, 56});
  const auto outcome = [&](int threads) {
    const int before = at::get_num_threads();
    at::set_num_threads(threads);
    const Outcome result =
        evaluate([&](const at::Tensor& b, const at::Tensor& a) { return blend(b, in.boxes, in.images, a); },
                 in.bases, in.attention, direction);
    at::set_num_threads(before);
    return result;
  };
  const Outcome serial = outcome(1);
  for (const int threads : {2, 5}) {
    const Outcome parallel = outcome(threads);
    EXPECT_TRUE(at::equal(serial.logits, parallel.logits));
    EXPECT_TRUE(at::equal(serial.bases_grad, parallel.bases_grad));
    EXPECT_TRUE(at::equal(serial.attention_grad, parallel.attention_grad));
  }
}

}  // namespace
}  // namespace instseg
