// SPDX-License-Identifier: Apache-2.0
#include "io/strict_json.h"

#include <gtest/gtest.h>

#include <string>

#include "instseg/error.h"

namespace instseg {
namespace {

std::string error_of(const std::string& text) {
  try {
    parse_json(text, "[f] ");
  } catch (const ValueError& error) {
    return error.what();
  }
  return "no error";
}

TEST(ParseJson, KeepsOrderAndValues) {
  const std::string text = R"({"b":[1,-2,0.5,true,null,"x"],"a":{}})";
  EXPECT_EQ(parse_json(text, "").dump(), text);
}

TEST(ParseJson, DuplicateNamesOnlyCountWithinOneObject) {
  EXPECT_EQ(error_of(R"({"a":{"x":1},"b":{"x":1},"x":[{"x":1},{"x":2}]})"), "no error");
  EXPECT_EQ(error_of(R"({"a":{"x":1,"y":2,"x":3}})"), "[f] duplicate name 'x'");
  // The same name, once written with an escape.
  EXPECT_EQ(error_of(R"({"x":1,"\u0078":2})"), "[f] duplicate name 'x'");
}

TEST(ParseJson, DepthIsLimited) {
  EXPECT_EQ(error_of(std::string(32, '[') + std::string(32, ']')), "no error");
  EXPECT_EQ(error_of(std::string(33, '[') + std::string(33, ']')), "[f] nested deeper than 32 levels");
}

TEST(ParseJson, NumberOverflow) {
  EXPECT_EQ(error_of("[1e999]"), "[f] not valid JSON at byte 6: number overflow parsing '1e999'");
}

TEST(ParseJson, BadUtf8IsNotRepeatedInTheMessage) {
  const std::string text = error_of("\"\xC3\x28\"");
  EXPECT_EQ(
      text,
      "[f] not valid JSON at byte 3: syntax error while parsing value - invalid string: ill-formed UTF-8 "
      "byte");
}

TEST(DumpJson, BadUtf8IsAValueError) {
  EXPECT_THROW(dump_json(nlohmann::ordered_json("\xff"), "[f] "), ValueError);
  EXPECT_EQ(dump_json(nlohmann::ordered_json("\xC3\xA9"), "[f] "), "\"\xC3\xA9\"");
}

TEST(Printable, EscapesAndCuts) {
  EXPECT_EQ(printable("plain name"), "plain name");
  EXPECT_EQ(printable("a\nb\xC3\xA9\xff"), "a\\nb\\u00e9\\ufffd");
  EXPECT_EQ(printable(std::string(500, 'x')), std::string(117, 'x') + "...");
}

}  // namespace
}  // namespace instseg
