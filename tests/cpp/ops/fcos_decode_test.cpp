// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/fcos_decode.h"

#include <map>

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::difference;
using test::expect_error;
using test::same;

// One image and level as the definition reads: every probability, then threshold, rank, decode.
FcosCandidates plain_level(const FcosLevel& level, int64_t image, const PostConfig& post,
                           const ImageSize& size) {
  const auto rows = [&](const at::Tensor& map) {
    return map[image].cpu().to(at::kFloat).permute({1, 2, 0}).reshape({-1, map.size(1)});
  };
  const at::Tensor p = rows(level.logits).sigmoid(), c = rows(level.centerness).sigmoid(), product = p * c;
  const at::Tensor score = post.score == "sqrt" ? product.sqrt() : product;
  const at::Tensor tested = post.threshold_on == "class"     ? p
                            : post.threshold_on == "product" ? product
                                                             : score;
  at::Tensor passing = tested > post.score_threshold;
  const int64_t k = post.topk_per_level;
  if (post.topk_over == "locations" && p.size(0) > k) {
    const at::Tensor best = std::get<1>((std::get<0>(p.max(1)) * c.select(1, 0)).topk(k));
    const at::Tensor allowed = at::zeros({p.size(0)}, at::kBool).index_fill_(0, best, true);
    passing = passing.logical_and(allowed.unsqueeze(1));
  }
  at::Tensor pairs = passing.reshape({-1}).nonzero().select(1, 0);
  if (post.topk_over == "pairs" && pairs.size(0) > k) {
    const at::Tensor best = std::get<1>(product.reshape({-1}).index_select(0, pairs).topk(k));
    pairs = std::get<0>(pairs.index_select(0, best).sort());
  }
  const at::Tensor cell = pairs.floor_divide(p.size(1));
  const at::Tensor xy = locations(level.grid, at::kCPU).index_select(0, cell);
  const at::Tensor sides = rows(level.reg).index_select(0, cell) * level.unit;
  at::Tensor boxes = at::cat({xy - sides.narrow(1, 0, 2), xy + sides.narrow(1, 2, 2)}, 1);
  if (post.clip_before_nms) {
    const auto bound = [](int64_t n) { return static_cast<float>(n); };
    const float w = bound(size.width), h = bound(size.height);
    boxes = at::minimum(boxes.clamp_min(0), at::tensor({w, h, w, h}));
  }
  return {boxes, score.reshape({-1}).index_select(0, pairs), pairs.remainder(p.size(1)), at::Tensor(), cell};
}

class FcosDecodeTest : public test::DeviceTest {
 protected:
  // Random head outputs of `count` levels, the first 25 x 37 cells.
  std::vector<FcosLevel> levels(int64_t images, int64_t classes, int64_t count = 3, double mean = -2.5) {
    std::vector<FcosLevel> out;
    for (int64_t l = 0, h = 25, w = 37; l < count; ++l, h = (h + 1) / 2, w = (w + 1) / 2) {
      const int64_t stride = int64_t{8} << l;
      out.push_back({here(at::randn({images, classes, h, w}) + mean),
                     here(at::rand({images, 4, h, w}) * 6),
                     here(at::randn({images, 1, h, w})),
                     {h, w, stride, stride + 1, stride / 2},
                     static_cast<double>(stride)});
    }
    return out;
  }

  void expect_twin(const std::vector<FcosLevel>& maps, const PostConfig& post,
                   const std::vector<ImageSize>& sizes) {
    const std::vector<FcosCandidates> ours = fcos_decode(maps, post, sizes);
    ASSERT_EQ(static_cast<int64_t>(ours.size()), maps[0].logits.size(0));
    for (size_t i = 0; i < ours.size(); ++i) {
      std::map<std::string, std::vector<at::Tensor>> twin;
      for (size_t l = 0; l < maps.size(); ++l) {
        const FcosCandidates level = plain_level(maps[l], static_cast<int64_t>(i), post, sizes[i]);
        twin["boxes"].push_back(level.boxes);
        twin["scores"].push_back(level.scores);
        twin["labels"].push_back(level.labels);
        twin["positions"].push_back(level.positions);
        twin["levels"].push_back(at::full_like(level.labels, static_cast<int64_t>(l)));
      }
      EXPECT_TRUE(same(ours[i].labels, at::cat(twin["labels"])));
      EXPECT_TRUE(same(ours[i].positions, at::cat(twin["positions"])));
      EXPECT_TRUE(same(ours[i].levels, at::cat(twin["levels"])));
      EXPECT_LE(difference(ours[i].scores, at::cat(twin["scores"])), 2e-7);
      EXPECT_EQ(difference(ours[i].boxes, at::cat(twin["boxes"])), 0);
      EXPECT_GT(ours[i].scores.size(0), 0);
    }
  }

  const std::vector<ImageSize> sizes_ = {{190, 290}, {150, 200}};
};
INSTSEG_ON_DEVICES(FcosDecodeTest);

TEST_P(FcosDecodeTest, EveryRuleMatchesTwin) {
  const auto maps = levels(2, 7);
  for (const char* threshold_on : {"class", "product", "score"}) {
    for (const char* score : {"sqrt", "product"}) {
      for (const char* topk_over : {"pairs", "locations"}) {
        for (const int64_t topk : {40, 100000}) {
          PostConfig post;
          post.threshold_on = threshold_on;
          post.score = score;
          post.topk_over = topk_over;
          post.topk_per_level = topk;
          post.clip_before_nms = topk == 40;
          expect_twin(maps, post, sizes_);
        }
      }
    }
  }
}

TEST_P(FcosDecodeTest, ThresholdsFromNothingToAlmostOne) {
  for (const double threshold : {0.0, 1e-6, 0.3, 0.9, 0.999}) {
    const auto maps = levels(2, 4, 2, threshold > 0.5 ? 6 : -1);
    for (const char* threshold_on : {"class", "score"}) {
      PostConfig post;
      post.threshold_on = threshold_on;
      post.score_threshold = threshold_on[0] == 's' ? threshold * 0.7 : threshold;
      expect_twin(maps, post, sizes_);
    }
  }
}

TEST_P(FcosDecodeTest, LayoutsAndDtypes) {
  PostConfig post;
  post.topk_per_level = 60;
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    auto maps = levels(2, 80);
    for (FcosLevel& level : maps) {
      level.logits = level.logits.to(type);
      level.reg = level.reg.to(type);
      level.centerness = level.centerness.to(type);
    }
    if (type != at::kFloat) post.topk_per_level = 100000;  // bfloat16 products tie, the twin may pick others
    expect_twin(maps, post, sizes_);
    for (FcosLevel& level : maps) {
      level.logits = level.logits.contiguous(at::MemoryFormat::ChannelsLast);
      level.reg = level.reg.contiguous(at::MemoryFormat::ChannelsLast);
    }
    expect_twin(maps, post, sizes_);
    post.topk_over = "locations";
    expect_twin(maps, post, sizes_);
    post.topk_over = "pairs";
    for (FcosLevel& level : maps) {  // views into a wider tensor
      level.logits = at::cat({level.logits, level.logits}, 3).narrow(3, 0, level.logits.size(3));
      level.reg = at::cat({level.reg, level.reg}, 1).narrow(1, 0, 4);
    }
    expect_twin(maps, post, sizes_);
  }
}

TEST_P(FcosDecodeTest, OneClass) {
  PostConfig post;
  post.topk_per_level = 50;
  auto maps = levels(1, 1);
  expect_twin(maps, post, sizes_);
  for (FcosLevel& level : maps) level.logits = level.logits.contiguous(at::MemoryFormat::ChannelsLast);
  expect_twin(maps, post, sizes_);
}

TEST_P(FcosDecodeTest, TiesGoToTheLowerIndex) {
  FcosLevel level{here(at::zeros({1, 3, 4, 4})),
                  here(at::ones({1, 4, 4, 4})),
                  here(at::zeros({1, 1, 4, 4})),
                  {4, 4, 8, 8, 4},
                  8};
  PostConfig post;
  post.topk_per_level = 5;
  const auto pairs = fcos_decode({level}, post, {})[0];
  EXPECT_TRUE(same(pairs.positions, at::tensor({0, 0, 0, 1, 1}, at::kLong)));
  EXPECT_TRUE(same(pairs.labels, at::tensor({0, 1, 2, 0, 1}, at::kLong)));
  post.topk_over = "locations";
  const auto cells = fcos_decode({level}, post, {})[0];
  EXPECT_EQ(cells.positions.size(0), 15);
  EXPECT_EQ(cells.positions.max().item<int64_t>(), 4);
}

TEST_P(FcosDecodeTest, NothingFound) {
  auto maps = levels(2, 3, 3, -50);
  for (const auto& image : fcos_decode(maps, PostConfig(), sizes_)) {
    EXPECT_EQ(image.boxes.sizes(), at::IntArrayRef({0, 4}));
    EXPECT_EQ(image.labels.size(0), 0);
  }
  maps[0].logits.fill_(NAN);
  maps[1].centerness.fill_(NAN);
  maps[1].logits.fill_(3);
  EXPECT_EQ(fcos_decode(maps, PostConfig(), sizes_)[0].scores.size(0), 0);
  for (FcosLevel& level : maps) {  // no images
    level.logits = level.logits.narrow(0, 0, 0);
    level.reg = level.reg.narrow(0, 0, 0);
    level.centerness = level.centerness.narrow(0, 0, 0);
  }
  EXPECT_TRUE(fcos_decode(maps, PostConfig(), {}).empty());
}

TEST_P(FcosDecodeTest, RejectsBadInput) {
  const auto good = levels(2, 3);
  const auto call = [&](const auto& change, PostConfig post = {}) {
    auto maps = good;
    change(maps);
    return [this, maps, post] { fcos_decode(maps, post, sizes_); };
  };
  const auto unchanged = [](std::vector<FcosLevel>&) {};
  using Maps = std::vector<FcosLevel>;
  expect_error<ValueError>(call([](Maps& m) { m.clear(); }), "no levels");
  expect_error<ValueError>(call([](Maps& m) { m[0].logits = m[0].logits[0]; }), "expected [B, C, H, W]");
  expect_error<ValueError>(call([](Maps& m) { m[1].reg = m[0].reg; }), "reg has shape [2, 4, 25, 37]");
  expect_error<ValueError>(call([](Maps& m) { m[0].centerness = m[0].reg; }), "centerness has shape");
  expect_error<ValueError>(call([](Maps& m) { m[0].grid.width = 3; }), "grid of 25 x 3 cells");
  expect_error<ValueError>(call([](Maps& m) { m[1].logits = m[1].logits.narrow(1, 0, 2); }), "levels differ");
  expect_error<TypeError>(call([](Maps& m) { m[0].reg = m[0].reg.to(at::kHalf); }),
                          "reg is Half, logits are Float");
  expect_error<TypeError>(call([](Maps& m) { m[0].logits = m[0].logits.to(at::kDouble); }),
                          "logits is Double");
  PostConfig post;
  post.threshold_on = "box";
  expect_error<ValueError>(call(unchanged, post), "threshold_on 'box' is not one of");
  post = {};
  post.topk_per_level = 0;
  expect_error<ValueError>(call(unchanged, post), "topk_per_level is 0");
  post = {};
  post.clip_before_nms = true;
  expect_error<ValueError>([&] { fcos_decode(good, post, {}); }, "0 sizes for 2 images");
}

}  // namespace
}  // namespace instseg
