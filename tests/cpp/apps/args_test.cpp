// SPDX-License-Identifier: Apache-2.0
#include "args.h"

#include <gtest/gtest.h>

namespace instseg::apps {
namespace {

/** Text of the UsageError that parsing raises; empty when there is none. */
std::string usage_error(const std::vector<std::string>& arguments) {
  try {
    parse_args(arguments);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(ParseArgs, DefaultsAreTheDocumentedOnes) {
  const InferArgs args = parse_args({"m.safetensors", "a.png", "folder"});
  EXPECT_EQ(args.model, "m.safetensors");
  EXPECT_EQ(args.inputs, (std::vector<std::string>{"a.png", "folder"}));
  EXPECT_EQ(args.output, "");
  EXPECT_EQ(args.json, "");
  EXPECT_EQ(args.score, 0.3);
  EXPECT_EQ(args.device, "cpu");
  EXPECT_EQ(args.precision, "fp32");
  EXPECT_EQ(args.max_detections, 0);
  EXPECT_EQ(args.short_side, 0);
  EXPECT_EQ(args.long_side, 0);
  EXPECT_EQ(args.threads, 0);
  EXPECT_EQ(args.pixel_limit, kDefaultPixelLimit);
  EXPECT_TRUE(args.masks);
}

TEST(ParseArgs, FlagsTakeNoValue) {
  EXPECT_FALSE(parse_args({"m", "--no-masks", "a.png"}).masks);
  EXPECT_EQ(parse_args({"--no-masks", "m", "a.png"}).inputs, std::vector<std::string>{"a.png"});
  EXPECT_EQ(usage_error({"m", "a.png", "--no-masks=1"}), "--no-masks takes no value");
}

TEST(ParseArgs, OptionsMayStandAnywhereAndUseEquals) {
  const InferArgs args =
      parse_args({"--score=0.5", "m", "--output", "out", "a.png", "--json", "-", "--device", "cuda:1",
                  "--precision", "bf16", "--threads=3", "--pixel-limit", "1000", "b=c.png"});
  EXPECT_EQ(args.model, "m");
  EXPECT_EQ(args.inputs, (std::vector<std::string>{"a.png", "b=c.png"}));
  EXPECT_EQ(args.score, 0.5);
  EXPECT_EQ(args.output, "out");
  EXPECT_EQ(args.json, "-");
  EXPECT_EQ(args.device, "cuda:1");
  EXPECT_EQ(args.precision, "bf16");
  EXPECT_EQ(args.threads, 3);
  EXPECT_EQ(args.pixel_limit, 1000);
}

TEST(ParseArgs, SizesAndLimits) {
  const InferArgs args =
      parse_args({"m", "a.png", "--max-detections", "7", "--short-side=320", "--long-side", "640"});
  EXPECT_EQ(args.max_detections, 7);
  EXPECT_EQ(args.short_side, 320);
  EXPECT_EQ(args.long_side, 640);
  EXPECT_NE(usage_error({"m", "a.png", "--short-side", "0"}), "");
}

TEST(ParseArgs, ModelMayBeAnOption) {
  for (const auto& arguments : std::vector<std::vector<std::string>>{
           {"--model", "m", "a.png", "b.png"}, {"a.png", "b.png", "--model=m"}, {"m", "a.png", "b.png"}}) {
    const InferArgs args = parse_args(arguments);
    EXPECT_EQ(args.model, "m");
    EXPECT_EQ(args.inputs, (std::vector<std::string>{"a.png", "b.png"}));
  }
  EXPECT_EQ(usage_error({"--model", "m"}), "no image or folder given; see instseg-infer --help");
  EXPECT_EQ(usage_error({"a.png", "--model="}), "--model needs a value");
}

TEST(ParseArgs, DoubleDashEndsOptions) {
  const InferArgs args = parse_args({"m", "--", "--score"});
  EXPECT_EQ(args.inputs, (std::vector<std::string>{"--score"}));
}

TEST(ParseArgs, HelpAndVersionNeedNothingElse) {
  EXPECT_TRUE(parse_args({"--help"}).help);
  EXPECT_TRUE(parse_args({"-h"}).help);
  EXPECT_TRUE(parse_args({"--version"}).version);
  EXPECT_EQ(usage_error({"--help=1"}), "--help takes no value");
}

TEST(ParseArgs, UnknownOptionSuggestsTheClosest) {
  EXPECT_EQ(usage_error({"m", "a", "--scor", "1"}), "unknown option --scor (did you mean --score?)");
  EXPECT_EQ(usage_error({"m", "a", "--treads=2"}), "unknown option --treads (did you mean --threads?)");
  EXPECT_EQ(usage_error({"m", "a", "--pix"}), "unknown option --pix (did you mean --pixel-limit?)");
  EXPECT_EQ(usage_error({"m", "a", "--something-else"}),
            "unknown option --something-else; see instseg-infer --help");
}

TEST(ParseArgs, RefusesBadValues) {
  EXPECT_EQ(usage_error({"m", "a", "--score", "high"}), "--score needs a number, got 'high'");
  EXPECT_EQ(usage_error({"m", "a", "--score", "0.5x"}), "--score needs a number, got '0.5x'");
  EXPECT_EQ(usage_error({"m", "a", "--score", "nan"}), "--score must be between 0 and 1, got nan");
  EXPECT_EQ(usage_error({"m", "a", "--score", "-0.1"}), "--score must be between 0 and 1, got -0.1");
  EXPECT_EQ(usage_error({"m", "a", "--threads", "0"}), "--threads must be at least 1, got 0");
  EXPECT_EQ(usage_error({"m", "a", "--threads", "2.5"}), "--threads needs a number, got '2.5'");
  EXPECT_EQ(usage_error({"m", "a", "--pixel-limit", "99999999999999999999"}),
            "--pixel-limit needs a number, got '99999999999999999999'");
  EXPECT_EQ(usage_error({"m", "a", "--device", "gpu"}), "--device must be cpu, cuda or cuda:N, got 'gpu'");
  EXPECT_EQ(usage_error({"m", "a", "--device", "cuda:x"}),
            "--device must be cpu, cuda or cuda:N, got 'cuda:x'");
  EXPECT_EQ(usage_error({"m", "a", "--precision", "int8"}),
            "--precision must be fp32, bf16 or fp16, got 'int8'");
}

TEST(ParseArgs, RefusesMissingParts) {
  EXPECT_EQ(usage_error({}), "no model file given; see instseg-infer --help");
  EXPECT_EQ(usage_error({"m"}), "no image or folder given; see instseg-infer --help");
  EXPECT_EQ(usage_error({"m", "a", "--json"}), "--json needs a value");
  EXPECT_EQ(usage_error({"m", "a", "--json="}), "--json needs a value");
  EXPECT_EQ(usage_error({"m", ""}), "an empty file name");
}

TEST(HelpText, NamesEveryOption) {
  const std::string text = help_text();
  for (const char* option : {"--output", "--json", "--score", "--device", "--precision", "--threads",
                             "--pixel-limit", "--version", "--help", "Examples:"}) {
    EXPECT_NE(text.find(option), std::string::npos) << option;
  }
  EXPECT_NE(text.find(std::to_string(kDefaultPixelLimit)), std::string::npos);
}

}  // namespace
}  // namespace instseg::apps
