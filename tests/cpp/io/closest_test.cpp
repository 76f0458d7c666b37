// SPDX-License-Identifier: Apache-2.0
#include "io/closest.h"

#include <gtest/gtest.h>

namespace instseg {
namespace {

using Names = std::vector<std::string>;

TEST(ClosestNames, NearestFirst) {
  EXPECT_EQ(closest_names("colr", {"cold", "color", "xyz", "colour"}), (Names{"cold", "color", "colour"}));
  EXPECT_EQ(closest_names("colr", {"cold", "color", "colour"}, 1), (Names{"cold"}));
}

TEST(ClosestNames, SwappedLettersAreOneSlip) {
  EXPECT_EQ(closest_names("nrom", {"room", "norm"}), (Names{"norm", "room"}));
  EXPECT_EQ(closest_names("mena", {"mean", "std"}), (Names{"mean"}));
}

TEST(ClosestNames, CaseIsIgnored) { EXPECT_EQ(closest_names("ABCDEF", {"abcdef"}), (Names{"abcdef"})); }

TEST(ClosestNames, PartsCountAsClose) {
  EXPECT_EQ(closest_names("threshold", {"score_threshold", "norm"}), (Names{"score_threshold"}));
}

TEST(ClosestNames, FarNamesAreLeftOut) {
  EXPECT_TRUE(closest_names("zzzzzz", {"norm", "scale"}).empty());
  EXPECT_TRUE(closest_names(std::string(100'000, 'z'), {"norm"}).empty());
  EXPECT_TRUE(closest_names("norm", {}).empty());
}

TEST(CommaList, Joins) {
  EXPECT_EQ(comma_list({}), "");
  EXPECT_EQ(comma_list({"a"}), "a");
  EXPECT_EQ(comma_list({"a", "b"}), "a, b");
}

}  // namespace
}  // namespace instseg
