// SPDX-License-Identifier: Apache-2.0
#include "instseg/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "instseg/error.h"
#include "models/config_fields.h"
#include "models/config_json.h"

namespace instseg {
namespace {

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ValueError& error) {
    return error.what();
  }
  return "no error";
}

std::string check_error(const std::function<void(ModelConfig&)>& change) {
  ModelConfig config;
  change(config);
  return error_of([&] { config.check(); });
}

std::string json_error(const std::string& text) {
  return error_of([&] { ModelConfig::from_json(text); });
}

// A config in which no field has its default.
ModelConfig changed_everywhere() {
  ModelConfig config;
  const auto change = [](const auto& self, auto& part) -> void {
    visit_fields(part, [&](const char* name, auto& value, const char*) {
      using T = std::remove_cvref_t<decltype(value)>;
      if constexpr (ConfigStruct<T>) {
        self(self, value);
      } else if constexpr (std::is_same_v<T, bool>) {
        value = !value;
      } else if constexpr (std::is_arithmetic_v<T>) {
        value += static_cast<T>(0.1 + 1);
      } else if constexpr (std::is_same_v<T, std::string>) {
        value += std::string("+") + name;
      } else {
        value.push_back({});
      }
    });
  };
  change(change, config);
  return config;
}

// ---- Fields ----

TEST(ConfigFields, NamesFollowTheHeader) {
  EXPECT_EQ(
      field_names<ModelConfig>(),
      (std::vector<std::string>{"family", "num_classes", "class_names", "category_ids", "input", "backbone",
                                "neck", "head", "targets", "loss", "post", "condinst", "blendmask", "solo"}));
  EXPECT_EQ(field_names<TargetConfig>(),
            (std::vector<std::string>{"rule", "sizes_of_interest", "center_radius"}));
}

TEST(ConfigFields, EveryMemberIsListed) {
  // Equality looks at all members: a copy through the listed fields alone must not miss any.
  const ModelConfig original = changed_everywhere();
  EXPECT_EQ(ModelConfig::from_json(original.to_json()), original);
  EXPECT_FALSE(original == ModelConfig());
}

TEST(ConfigFields, ListedSizesCoverTheStructs) {
  // A member forgotten in config_fields.h would leave a gap larger than any padding.
  const auto listed = [](const auto& config) {
    size_t bytes = 0;
    visit_fields(config, [&](const char*, const auto& value, const char*) { bytes += sizeof(value); });
    return bytes;
  };
  const ModelConfig c;
  const auto covered = [&](const auto& part) { return sizeof(part) - listed(part) < 24; };
  EXPECT_TRUE(covered(c.input));
  EXPECT_TRUE(covered(c.backbone));
  EXPECT_TRUE(covered(c.neck));
  EXPECT_TRUE(covered(c.head));
  EXPECT_TRUE(covered(c.targets));
  EXPECT_TRUE(covered(c.loss));
  EXPECT_TRUE(covered(c.post));
  EXPECT_TRUE(covered(c.condinst));
  EXPECT_TRUE(covered(c.condinst.boxinst));
  EXPECT_TRUE(covered(c.blendmask));
  EXPECT_TRUE(covered(c.solo));
  EXPECT_EQ(sizeof(c), listed(c));
}

TEST(ConfigFields, EveryFieldIsDocumented) {
  const ModelConfig config;
  visit_fields(config, [](const char* name, const auto& part, const char* doc) {
    EXPECT_GT(std::string(doc).size(), 3u) << name;
    if constexpr (ConfigStruct<std::remove_cvref_t<decltype(part)>>) {
      visit_fields(part, [](const char* field, const auto& value, const char* text) {
        EXPECT_GT(std::string(text).size(), 2u) << field;
        if constexpr (ConfigStruct<std::remove_cvref_t<decltype(value)>>) {
          visit_fields(value, [](const char* inner, const auto&, const char* inner_text) {
            EXPECT_GT(std::string(inner_text).size(), 2u) << inner;
          });
        }
      });
    }
  });
}

// ---- JSON ----

TEST(ConfigJson, RoundTrip) {
  const ModelConfig config;
  EXPECT_EQ(ModelConfig::from_json(config.to_json()), config);
  EXPECT_EQ(ModelConfig::from_json(config.to_json(2)), config);
}

TEST(ConfigJson, DoublesAreExact) {
  ModelConfig config;
  config.input.mean = {0.1 + 0.2, 1.0 / 3.0, 0.485 * 255};
  EXPECT_EQ(ModelConfig::from_json(config.to_json()).input.mean, config.input.mean);
}

TEST(ConfigJson, KeepsDeclarationOrder) {
  const std::string text = ModelConfig().to_json();
  EXPECT_EQ(text.rfind("{\"family\":\"fcos\",\"num_classes\":80,", 0), 0u) << text;
  EXPECT_LT(text.find("\"input\""), text.find("\"backbone\""));
  EXPECT_LT(text.find("\"loss\""), text.find("\"post\""));
}

TEST(ConfigJson, MissingFieldsTakeDefaults) {
  ModelConfig expected;
  expected.head.norm = "bn";
  EXPECT_EQ(ModelConfig::from_json(R"({"head": {"norm": "bn"}})"), expected);
  EXPECT_EQ(ModelConfig::from_json("{}"), ModelConfig());
  expected = ModelConfig();
  expected.condinst.boxinst.pairwise_dilation = 3;
  EXPECT_EQ(ModelConfig::from_json(R"({"condinst": {"boxinst": {"pairwise_dilation": 3}}})"), expected);
}

TEST(ConfigJson, IntegersServeAsNumbers) {
  EXPECT_EQ(ModelConfig::from_json(R"({"input": {"std": [1, 2, 3]}})").input.std,
            (std::vector<double>{1, 2, 3}));
}

TEST(ConfigJson, UnknownFieldNamesTheClosest) {
  EXPECT_EQ(json_error(R"({"head": {"nrom": "gn"}})"),
            "[ModelConfig] head.nrom: unknown field; did you mean 'norm'?");
  EXPECT_EQ(json_error(R"({"num_clases": 3})"),
            "[ModelConfig] num_clases: unknown field; did you mean 'num_classes'?");
  EXPECT_EQ(json_error(R"({"condinst": {"boxinst": {"pairwise_sise": 3}}})"),
            "[ModelConfig] condinst.boxinst.pairwise_sise: unknown field; did you mean 'pairwise_size'?");
}

TEST(ConfigJson, UnknownFieldListsAllWhenNoneIsClose) {
  EXPECT_EQ(json_error(R"({"targets": {"xyzzyxyzzy": 1}})"),
            "[ModelConfig] targets.xyzzyxyzzy: unknown field; the fields are rule, sizes_of_interest, "
            "center_radius");
}

TEST(ConfigJson, WrongTypesNameTheDottedField) {
  EXPECT_EQ(json_error(R"({"head": {"norm": 1}})"),
            "[ModelConfig] head.norm: expected a string, got number 1");
  EXPECT_EQ(json_error(R"({"head": {"cls_convs": "4"}})"),
            "[ModelConfig] head.cls_convs: expected an integer, got string \"4\"");
  EXPECT_EQ(json_error(R"({"head": {"cls_convs": 4.0}})"),
            "[ModelConfig] head.cls_convs: expected an integer, got number 4.0");
  EXPECT_EQ(json_error(R"({"head": {"cls_convs": true}})"),
            "[ModelConfig] head.cls_convs: expected an integer, got boolean true");
  EXPECT_EQ(json_error(R"({"head": {"scale": 1}})"),
            "[ModelConfig] head.scale: expected true or false, got number 1");
  EXPECT_EQ(json_error(R"({"post": {"nms_threshold": null}})"),
            "[ModelConfig] post.nms_threshold: expected a number, got null null");
  EXPECT_EQ(json_error(R"({"input": {"mean": [1, "x", 3]}})"),
            "[ModelConfig] input.mean[1]: expected a number, got string \"x\"");
  EXPECT_EQ(json_error(R"({"class_names": "cat"})"),
            "[ModelConfig] class_names: expected a list, got string \"cat\"");
  EXPECT_EQ(json_error(R"({"neck": []})"), "[ModelConfig] neck: expected an object, got array []");
  EXPECT_EQ(json_error(R"({"condinst": {"boxinst": 3}})"),
            "[ModelConfig] condinst.boxinst: expected an object, got number 3");
  EXPECT_EQ(json_error(R"({"blendmask": {"semantic": 1}})"),
            "[ModelConfig] blendmask.semantic: expected true or false, got number 1");
  EXPECT_EQ(json_error("[]"), "[ModelConfig] config: expected an object, got array []");
}

TEST(ConfigJson, IntegerBeyond64Bits) {
  EXPECT_EQ(json_error(R"({"num_classes": 9223372036854775808})"),
            "[ModelConfig] num_classes: expected an integer, got number 9223372036854775808");
}

TEST(ConfigJson, SyntaxErrorsSayWhere) {
  EXPECT_NE(json_error(R"({"family": )").find("[ModelConfig::from_json] not valid JSON at byte 11: "),
            std::string::npos)
      << json_error(R"({"family": )");
  EXPECT_EQ(json_error(""), "[ModelConfig::from_json] not valid JSON at byte 0: the text is empty");
}

TEST(ConfigJson, DuplicateFieldIsRefused) {
  EXPECT_EQ(json_error(R"({"head": {"norm": "gn", "norm": "bn"}})"),
            "[ModelConfig::from_json] duplicate name 'norm'");
}

TEST(ConfigJson, NamesThatAreNotUtf8AreRefused) {
  ModelConfig config;
  config.class_names = {"\xff"};
  EXPECT_NE(error_of([&] { config.to_json(); }).find("[ModelConfig::to_json] invalid UTF-8"),
            std::string::npos);
}

// ---- check ----

TEST(ConfigCheck, DefaultsPass) {
  const ModelConfig config;
  EXPECT_NO_THROW(config.check());
  EXPECT_NO_THROW(config.input.check());
  EXPECT_NO_THROW(config.backbone.check());
  EXPECT_NO_THROW(config.neck.check());
  EXPECT_NO_THROW(config.head.check());
  EXPECT_NO_THROW(config.targets.check());
  EXPECT_NO_THROW(config.loss.check());
  EXPECT_NO_THROW(config.post.check());
  EXPECT_NO_THROW(config.condinst.check());
  EXPECT_NO_THROW(config.condinst.boxinst.check());
  EXPECT_NO_THROW(config.blendmask.check());
  EXPECT_NO_THROW(config.solo.check());
  for (const char* family : {"fcos", "condinst", "blendmask"}) {
    EXPECT_EQ(check_error([&](auto& c) { c.family = family; }), "no error") << family;
  }
  const auto solo = [](int64_t min_level, int64_t max_level) {
    return [=](ModelConfig& c) {
      c.family = "solo";
      c.neck.min_level = min_level;
      c.neck.max_level = max_level;
    };
  };
  EXPECT_EQ(check_error(solo(2, 6)), "no error");
  EXPECT_EQ(check_error(solo(3, 6)), "[ModelConfig] neck.min_level: 3 must be 2 for family solo");
  EXPECT_EQ(check_error(solo(2, 7)), "[ModelConfig] neck.max_level: 7 must be 6 for family solo");
}

TEST(ConfigCheck, ChoicesNameFieldAndValue) {
  EXPECT_EQ(check_error([](auto& c) { c.head.norm = "ln"; }),
            "[ModelConfig] head.norm: 'ln' is not one of gn, bn, none");
  EXPECT_EQ(check_error([](auto& c) { c.family = "yolo"; }),
            "[ModelConfig] family: 'yolo' is not one of fcos, condinst, blendmask, solo");
  EXPECT_EQ(check_error([](auto& c) { c.input.channel_order = "grb"; }),
            "[ModelConfig] input.channel_order: 'grb' is not one of bgr, rgb");
  EXPECT_EQ(check_error([](auto& c) { c.backbone.name = "vgg"; }),
            "[ModelConfig] backbone.name: 'vgg' is not one of resnet18, resnet34, resnet50, resnet101, "
            "efficientnet_lite0, efficientnet_lite1, efficientnet_lite2");
  EXPECT_EQ(check_error([](auto& c) { c.post.threshold_on = "none"; }),
            "[ModelConfig] post.threshold_on: 'none' is not one of class, product, score");
}

TEST(ConfigCheck, EveryChoiceFieldIsChecked) {
  // No string of the config is free text, except the class names.
  ModelConfig config;
  visit_fields(config, [&](const char* part_name, auto& part, const char*) {
    if constexpr (ConfigStruct<std::remove_cvref_t<decltype(part)>>) {
      visit_fields(part, [&](const char* name, auto& value, const char*) {
        if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, std::string>) {
          const std::string good = std::exchange(value, "nonsense");
          const std::string text = error_of([&] { config.check(); });
          EXPECT_EQ(text.find(join("[ModelConfig] ", part_name, ".", name, ": 'nonsense' is not one of ")),
                    0u)
              << text;
          value = good;
        }
      });
    }
  });
  EXPECT_NO_THROW(config.check());
}

TEST(ConfigCheck, StructsAloneUseTheirOwnName) {
  PostConfig post;
  post.nms_threshold = 2;
  EXPECT_EQ(error_of([&] { post.check(); }), "[PostConfig] nms_threshold: 2 is not within 0..1");
}

TEST(ConfigCheck, Ranges) {
  EXPECT_EQ(check_error([](auto& c) { c.num_classes = 0; }),
            "[ModelConfig] num_classes: 0 is not within 1..100000");
  EXPECT_EQ(check_error([](auto& c) { c.input.mean.pop_back(); }),
            "[ModelConfig] input.mean: has 2 values, expected 3");
  EXPECT_EQ(check_error([](auto& c) { c.input.std[2] = 0; }),
            "[ModelConfig] input.std[2]: 0 is not a positive number");
  EXPECT_EQ(check_error([](auto& c) { c.input.short_side = -5; }),
            "[ModelConfig] input.short_side: -5 is not within 1..32768");
  EXPECT_EQ(check_error([](auto& c) { c.input.long_side = 100; }),
            "[ModelConfig] input.long_side: 100 is less than short_side 800");
  EXPECT_EQ(check_error([](auto& c) { c.input.size_divisor = 48; }),
            "[ModelConfig] input.size_divisor: 48 is not a multiple of 32, the stride of the coarsest "
            "backbone stage");
  EXPECT_EQ(check_error([](auto& c) { c.backbone.freeze = 6; }),
            "[ModelConfig] backbone.freeze: 6 is not within 0..5");
  EXPECT_EQ(check_error([](auto& c) { c.neck.max_level = 8; }),
            "[ModelConfig] neck.max_level: 8 is not within 5..7");
  EXPECT_EQ(check_error([](auto& c) { c.head.cls_convs = -1; }),
            "[ModelConfig] head.cls_convs: -1 is not within 0..32");
  EXPECT_EQ(check_error([](auto& c) { c.head.prior_prob = 1; }),
            "[ModelConfig] head.prior_prob: 1 is not between 0 and 1");
  EXPECT_EQ(check_error([](auto& c) { c.targets.center_radius = -1; }),
            "[ModelConfig] targets.center_radius: -1 is not a finite number >= 0");
  EXPECT_EQ(check_error([](auto& c) { c.loss.focal_alpha = 1.5; }),
            "[ModelConfig] loss.focal_alpha: 1.5 is not within 0..1");
  EXPECT_EQ(check_error([](auto& c) { c.post.max_detections = 0; }),
            "[ModelConfig] post.max_detections: 0 is not within 1..1000000");
}

TEST(ConfigCheck, NanIsRefused) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(check_error([&](auto& c) { c.input.mean[0] = nan; }),
            "[ModelConfig] input.mean[0]: nan is not a finite number");
  EXPECT_EQ(check_error([&](auto& c) { c.input.std[0] = nan; }),
            "[ModelConfig] input.std[0]: nan is not a positive number");
  EXPECT_EQ(check_error([&](auto& c) { c.post.score_threshold = nan; }),
            "[ModelConfig] post.score_threshold: nan is not within 0..1");
  EXPECT_EQ(check_error([&](auto& c) { c.head.prior_prob = nan; }),
            "[ModelConfig] head.prior_prob: nan is not between 0 and 1");
  EXPECT_EQ(check_error([&](auto& c) { c.loss.focal_gamma = nan; }),
            "[ModelConfig] loss.focal_gamma: nan is not a finite number >= 0");
}

TEST(ConfigCheck, Classes) {
  const auto two = [](ModelConfig& c) {
    c.num_classes = 2;
    c.class_names = {"cat", "dog"};
    c.category_ids = {7, 3};
  };
  EXPECT_EQ(check_error(two), "no error");
  EXPECT_EQ(check_error([](auto& c) { c.class_names = {"a"}; }),
            "[ModelConfig] class_names: has 1 names, num_classes is 80");
  EXPECT_EQ(check_error([](auto& c) { c.category_ids = {1, 2}; }),
            "[ModelConfig] category_ids: has 2 ids, num_classes is 80");
  EXPECT_EQ(check_error([&](auto& c) {
              two(c);
              c.class_names[1] = "cat";
            }),
            "[ModelConfig] class_names: 'cat' appears twice");
  EXPECT_EQ(check_error([&](auto& c) {
              two(c);
              c.class_names[0] = "";
            }),
            "[ModelConfig] class_names: contains an empty name");
  EXPECT_EQ(check_error([&](auto& c) {
              two(c);
              c.category_ids[0] = 3;
            }),
            "[ModelConfig] category_ids: 3 appears twice");
}

TEST(ConfigCheck, GapsOfALabelMapMayRepeat) {
  EXPECT_EQ(check_error([](auto& c) {
              c.num_classes = 3;
              c.class_names = {"N/A", "cat", "N/A"};
            }),
            "no error");
}

TEST(ConfigCheck, SizesOfInterestFitTheLevels) {
  EXPECT_EQ(check_error([](auto& c) { c.neck.max_level = 5; }),
            "[ModelConfig] targets.sizes_of_interest: has 4 bounds, but neck levels 3..5 need 2");
  EXPECT_EQ(check_error([](auto& c) {
              c.neck.max_level = 5;
              c.targets.sizes_of_interest = {64, 128};
            }),
            "no error");
  EXPECT_EQ(check_error([](auto& c) {
              c.neck.max_level = 5;
              c.targets.rule = "torchvision";
            }),
            "no error");
  EXPECT_EQ(check_error([](auto& c) { c.targets.sizes_of_interest = {64, 64, 128, 256}; }),
            "[ModelConfig] targets.sizes_of_interest[1]: 64 is not greater than 64");
  EXPECT_EQ(check_error([](auto& c) { c.targets.sizes_of_interest = {0, 64, 128, 256}; }),
            "[ModelConfig] targets.sizes_of_interest[0]: 0 is not greater than 0");
}

TEST(ConfigCheck, TorchvisionRuleNeedsARadius) {
  EXPECT_EQ(check_error([](auto& c) {
              c.targets.rule = "torchvision";
              c.targets.center_radius = 0;
            }),
            "[ModelConfig] targets.center_radius: 0 is not positive, as rule torchvision needs");
}

TEST(ConfigCheck, GroupsFitTheChannels) {
  EXPECT_EQ(check_error([](auto& c) { c.neck.channels = 100; }),
            "[ModelConfig] head.norm: 'gn' has 32 groups, but neck.channels 100 is not a multiple of 32");
  EXPECT_EQ(check_error([](auto& c) {
              c.neck.channels = 100;
              c.head.norm = "bn";
            }),
            "no error");
}

}  // namespace
}  // namespace instseg
