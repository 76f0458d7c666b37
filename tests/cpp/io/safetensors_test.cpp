// SPDX-License-Identifier: Apache-2.0
#include "io/safetensors.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/scalar_tensor.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>

#include "instseg/error.h"
#include "io/safetensors_bytes.h"

namespace instseg {
namespace {

using instseg::testing::file_bytes;
using instseg::testing::TemporaryFolder;

const std::string kPrefix = "[read_safetensors] x.safetensors: ";

std::string error_of(const std::string& bytes) {
  try {
    parse_safetensors(bytes.data(), bytes.size(), "x.safetensors");
  } catch (const ValueError& error) {
    return error.what();
  }
  return "no error";
}

// The message for a header of one tensor over `data` bytes of data, without its common start.
std::string header_error(const std::string& header, size_t data) {
  const std::string text = error_of(file_bytes(header, std::string(data, '\0')));
  return text.rfind(kPrefix, 0) == 0 ? text.substr(kPrefix.size()) : text;
}

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         (a.nbytes() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}

// ---- Valid files ----

TEST(Safetensors, RoundTripIsBitEqualForEveryDtype) {
  const TemporaryFolder folder;
  NamedTensors tensors;
  for (at::ScalarType type : {at::kChar, at::kFloat, at::kLong, at::kHalf, at::kDouble, at::kBFloat16,
                              at::kInt, at::kShort, at::kByte}) {
    // Random bytes: NaN payloads, infinities and denormals must survive as well.
    at::Tensor raw = at::randint(0, 256, {3, 5 * static_cast<int64_t>(c10::elementSize(type))}, at::kByte);
    tensors.emplace_back(c10::toString(type), raw.view(type));
  }
  tensors.emplace_back("flags", at::randint(0, 2, {7}, at::kByte).to(at::kBool));
  tensors.emplace_back("scalar", at::scalar_tensor(2.5, at::kFloat));
  tensors.emplace_back("none", at::empty({0, 4}, at::kFloat));
  write_safetensors(folder / "a.safetensors", {{"key", "value \xC3\xA9\n"}}, tensors);
  const Safetensors read = read_safetensors(folder / "a.safetensors");
  EXPECT_EQ(read.metadata, (std::map<std::string, std::string>{{"key", "value \xC3\xA9\n"}}));
  ASSERT_EQ(read.tensors.size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(read.tensors[i].first, tensors[i].first);
    EXPECT_TRUE(same_bits(read.tensors[i].second, tensors[i].second)) << tensors[i].first;
  }
}

TEST(Safetensors, ReadsAFileWrittenByHand) {
  const std::string header =
      R"({"__metadata__":{"m":"1"},"b":{"dtype":"I16","shape":[2],"data_offsets":[4,8]},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   )";
  const std::string data("\x00\x00\x80\x3f\x01\x00\xff\xff", 8);
  const std::string bytes = file_bytes(header, data);
  const Safetensors read = parse_safetensors(bytes.data(), bytes.size(), "x");
  EXPECT_EQ(read.metadata.at("m"), "1");
  ASSERT_EQ(read.tensors.size(), 2u);
  EXPECT_EQ(read.tensors[0].first, "b");
  EXPECT_EQ(read.tensors[0].second[1].item<int>(), -1);
  EXPECT_EQ(read.tensors[1].second.item<float>(), 1.0f);
  EXPECT_EQ(read.tensors[1].second.dim(), 0);
}

TEST(Safetensors, NoTensorsAtAll) {
  const std::string bytes = file_bytes("{}");
  EXPECT_TRUE(parse_safetensors(bytes.data(), bytes.size(), "x").tensors.empty());
}

TEST(Safetensors, TensorsOutliveTheFile) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", {}, {{"t", at::arange(100, at::kLong)}});
  const Safetensors read = read_safetensors(folder / "a");
  testing::write_bytes(folder / "a", "x");
  EXPECT_TRUE(at::equal(read.tensors[0].second, at::arange(100, at::kLong)));
}

TEST(Safetensors, WritesNonContiguousTensorsInTheirOrder) {
  const TemporaryFolder folder;
  const at::Tensor transposed = at::arange(6, at::kFloat).view({2, 3}).t();
  write_safetensors(folder / "a", {}, {{"t", transposed}});
  EXPECT_TRUE(at::equal(read_safetensors(folder / "a").tensors[0].second, transposed));
}

TEST(Safetensors, DataAreAlignedToTheirElements) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", {},
                    {{"byte", at::arange(3, at::kByte)},
                     {"long", at::arange(2, at::kLong)},
                     {"half", at::arange(1, at::kHalf)}});
  const std::string bytes = testing::read_bytes(folder / "a");
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  EXPECT_EQ(header % 8, 0u);
  EXPECT_NE(bytes.find(R"("long":{"dtype":"I64","shape":[2],"data_offsets":[0,16]})"), std::string::npos);
  EXPECT_NE(bytes.find(R"("half":{"dtype":"F16","shape":[1],"data_offsets":[16,18]})"), std::string::npos);
  EXPECT_NE(bytes.find(R"("byte":{"dtype":"U8","shape":[3],"data_offsets":[18,21]})"), std::string::npos);
}

// ---- Files that are something else, or cut ----

TEST(SafetensorsMalformed, EmptyFile) { EXPECT_EQ(error_of(""), kPrefix + "the file is empty"); }

TEST(SafetensorsMalformed, ShorterThanTheHeaderLength) {
  EXPECT_EQ(error_of("1234567"), kPrefix + "truncated: 7 bytes, the header length alone has 8");
}

TEST(SafetensorsMalformed, HeaderLengthBeyondTheFile) {
  std::string bytes = file_bytes("{}", "1234");
  bytes[0] = 7;
  EXPECT_EQ(error_of(bytes), kPrefix + "truncated: the header needs 7 bytes after offset 8, the file has 6");
}

TEST(SafetensorsMalformed, HeaderLengthOverTheLimit) {
  std::string bytes = file_bytes("{}");
  bytes[7] = 1;
  EXPECT_EQ(error_of(bytes),
            kPrefix +
                "header length 72057594037927938 is over the limit of 100000000 bytes; this is "
                "no safetensors file");
}

TEST(SafetensorsMalformed, PyTorchCheckpoints) {
  const std::string advice =
      kPrefix +
      "this is a PyTorch checkpoint, not a safetensors file; `instseg convert` imports "
      "published checkpoints";
  EXPECT_EQ(error_of(std::string("PK\x03\x04 and so on")), advice);
  EXPECT_EQ(error_of(std::string("\x80\x02}q\x00 and so on", 14)), advice);
}

TEST(SafetensorsMalformed, TruncatedData) {
  EXPECT_EQ(header_error(entry("F32", "[4]", "[0,16]"), 15),
            "tensor 'a': data_offsets [0, 16] reach beyond the 15 bytes of data (truncated file?)");
}

// ---- Header text ----

TEST(SafetensorsMalformed, HeaderIsNoObject) {
  EXPECT_EQ(header_error("[1, 2]", 0), "the header at offset 8 is not a JSON object");
  EXPECT_EQ(header_error("", 0), "the header at offset 8 is not a JSON object");
}

TEST(SafetensorsMalformed, HeaderIsNoJson) {
  EXPECT_EQ(header_error("{\"a\":}", 0).find("header: not valid JSON at byte 6: "), 0u)
      << header_error("{\"a\":}", 0);
}

TEST(SafetensorsMalformed, HeaderIsNotUtf8) {
  EXPECT_EQ(
      header_error("{\"\xff\":1}", 0),
      "header: not valid JSON at byte 3: syntax error while parsing object key - invalid string: ill-formed "
      "UTF-8 byte");
}

TEST(SafetensorsMalformed, TextAfterTheHeader) {
  EXPECT_EQ(header_error("{} {}", 0).find("header: not valid JSON at byte 4: "), 0u)
      << header_error("{} {}", 0);
}

TEST(SafetensorsMalformed, DuplicateNames) {
  EXPECT_EQ(header_error(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                         R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                         2),
            "header: duplicate name 'a'");
}

TEST(SafetensorsMalformed, DeepNesting) {
  EXPECT_EQ(header_error("{\"a\":" + std::string(100'000, '['), 0), "header: nested deeper than 32 levels");
}

TEST(SafetensorsMalformed, TooManyNames) {
  std::string header = "{";
  for (int i = 0; i < 20'001; ++i) header += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":0";
  EXPECT_EQ(header_error(header + "}", 0), "header: more than 20000 names in one object");
}

TEST(SafetensorsMalformed, Metadata) {
  EXPECT_EQ(header_error(R"({"__metadata__":[]})", 0), "__metadata__ is not a JSON object");
  EXPECT_EQ(header_error(R"({"__metadata__":{"v":1}})", 0), "__metadata__: 'v' is not a string");
}

// ---- Entries ----

TEST(SafetensorsMalformed, EntryIsNoObject) {
  EXPECT_EQ(header_error(R"({"a":3})", 0), "tensor 'a': its header entry is not a JSON object");
}

TEST(SafetensorsMalformed, EmptyName) {
  EXPECT_EQ(header_error(R"({"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", 0),
            "a tensor has an empty name");
}

TEST(SafetensorsMalformed, MissingAndUnknownKeys) {
  EXPECT_EQ(header_error(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1), "tensor 'a': no dtype");
  EXPECT_EQ(header_error(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1), "tensor 'a': no shape");
  EXPECT_EQ(header_error(R"({"a":{"dtype":"U8","shape":[1]}})", 1), "tensor 'a': no data_offsets");
  EXPECT_EQ(header_error(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"stride":[1]}})", 1),
            "tensor 'a': unknown key 'stride'");
}

TEST(SafetensorsMalformed, UnknownDtype) {
  EXPECT_EQ(
      header_error(entry("F8_E4M3", "[1]", "[0,1]"), 1),
      "tensor 'a': dtype \\\"F8_E4M3\\\" is not one of F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL");
  EXPECT_EQ(header_error(R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,1]}})", 1),
            "tensor 'a': dtype 7 is not one of F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL");
}

TEST(SafetensorsMalformed, ShapeIsNoList) {
  EXPECT_EQ(header_error(entry("U8", "3", "[0,3]"), 3), "tensor 'a': shape is not a list");
}

TEST(SafetensorsMalformed, ShapeEntriesThatAreNoSizes) {
  EXPECT_EQ(header_error(entry("U8", "[-1]", "[0,1]"), 1),
            "tensor 'a': shape contains -1, not a non-negative 64-bit integer");
  EXPECT_EQ(header_error(entry("U8", "[1.0]", "[0,1]"), 1),
            "tensor 'a': shape contains 1.0, not a non-negative 64-bit integer");
  EXPECT_EQ(header_error(entry("U8", "[9223372036854775808]", "[0,1]"), 1),
            "tensor 'a': shape contains 9223372036854775808, not a non-negative 64-bit integer");
}

TEST(SafetensorsMalformed, ShapeOverflows) {
  EXPECT_EQ(header_error(entry("F32", "[4294967296,4294967296]", "[0,0]"), 0),
            "tensor 'a': shape [4294967296,4294967296] overflows");
  EXPECT_EQ(header_error(entry("F32", "[0,4294967296,4294967296]", "[0,0]"), 0),
            "tensor 'a': shape [0,4294967296,4294967296] overflows");
}

TEST(SafetensorsMalformed, TooManyDimensions) {
  std::string shape = "[1";
  for (int i = 0; i < 32; ++i) shape += ",1";
  EXPECT_EQ(header_error(entry("U8", shape + "]", "[0,1]"), 1),
            "tensor 'a': shape has 33 dimensions, more than 32");
}

TEST(SafetensorsMalformed, OffsetsThatAreNoRange) {
  for (const char* offsets : {"[0]", "[0,1,2]", "[-1,1]", "[1,0]", "[0,0.5]", "\"0,1\"", "{}"}) {
    const std::string text = header_error(entry("U8", "[1]", offsets), 1);
    EXPECT_EQ(text.find("tensor 'a': data_offsets "), 0u) << text;
    EXPECT_TRUE(text.ends_with(" is not [begin, end]")) << text;
  }
}

TEST(SafetensorsMalformed, OffsetsDoNotFitTheShape) {
  EXPECT_EQ(header_error(entry("F32", "[2,3]", "[0,20]"), 20),
            "tensor 'a': shape [2,3] of F32 needs 24 bytes, data_offsets [0, 20] hold 20");
}

TEST(SafetensorsMalformed, OverlappingTensors) {
  EXPECT_EQ(header_error(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                         R"("b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
                         4),
            "tensor 'b' at data offset 2 overlaps tensor 'a', which ends at 3");
}

TEST(SafetensorsMalformed, HoleBetweenTensors) {
  EXPECT_EQ(header_error(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                         R"("b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}})",
                         6),
            "data bytes 3 to 4, before tensor 'b', belong to no tensor");
}

TEST(SafetensorsMalformed, BytesAfterTheLastTensor) {
  EXPECT_EQ(header_error(entry("U8", "[3]", "[0,3]"), 5),
            "the last 2 bytes, from data offset 3, belong to no tensor");
}

TEST(SafetensorsMalformed, BoolThatIsNeitherZeroNorOne) {
  EXPECT_EQ(error_of(file_bytes(entry("BOOL", "[3]", "[0,3]"), std::string("\0\1\2", 3))),
            kPrefix + "tensor 'a': a BOOL is neither 0 nor 1, at data offset 2");
}

TEST(SafetensorsMalformed, NamesAreEscapedInMessages) {
  EXPECT_EQ(header_error("{\"line\\nbreak\":3}", 0),
            "tensor 'line\\nbreak': its header entry is not a JSON object");
}

// ---- Files that cannot be read or written ----

std::string read_error(const std::string& path) {
  try {
    read_safetensors(path);
  } catch (const IoError& error) {
    return error.what();
  }
  return "no error";
}

std::string write_error(const std::string& path, const NamedTensors& tensors) {
  try {
    write_safetensors(path, {}, tensors);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(SafetensorsFiles, MissingFileAndFolder) {
  const TemporaryFolder folder;
  EXPECT_EQ(read_error(folder / "no"),
            "[read_safetensors] cannot read " + folder / "no" + ": No such file or directory");
  EXPECT_EQ(read_error(folder.path()),
            "[read_safetensors] cannot read " + folder.path().string() + ": Is a directory");
}

TEST(SafetensorsFiles, FolderToWriteToIsMissing) {
  const TemporaryFolder folder;
  EXPECT_EQ(write_error(folder / "no/a", {}),
            "[write_safetensors] cannot create " + folder / "no/a" + ": No such file or directory");
}

TEST(SafetensorsFiles, WritingReplacesAndLeavesNothingElse) {
  const TemporaryFolder folder;
  testing::write_bytes(folder / "a", "old");
  write_safetensors(folder / "a", {}, {{"t", at::arange(3, at::kFloat)}});
  EXPECT_EQ(read_safetensors(folder / "a").tensors.size(), 1u);
  const auto files = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
}

TEST(SafetensorsFiles, FailedWriteKeepsTheOldFile) {
  const TemporaryFolder folder;
  testing::write_bytes(folder / "a", "old");
  EXPECT_EQ(write_error(folder / "a", {{"t", at::arange(3, at::kFloat)}, {"t", at::arange(3, at::kFloat)}}),
            "[write_safetensors] tensor name 't' is empty, reserved or used twice");
  EXPECT_EQ(testing::read_bytes(folder / "a"), "old");
}

TEST(SafetensorsFiles, NewFilesHaveOrdinaryPermissions) {
  const TemporaryFolder folder;
  testing::write_bytes(folder / "plain", "x");
  write_safetensors(folder / "a", {}, {});
  EXPECT_EQ(std::filesystem::status(folder / "a").permissions(),
            std::filesystem::status(folder / "plain").permissions());
}

TEST(SafetensorsFiles, TensorsThatCannotBeWritten) {
  const TemporaryFolder folder;
  EXPECT_EQ(write_error(folder / "a", {{"t", at::Tensor()}}), "[write_safetensors] tensor 't' is undefined");
  EXPECT_EQ(write_error(folder / "a", {{"t", at::empty({2}, at::kComplexFloat)}}),
            "[write_safetensors] tensor 't' has dtype ComplexFloat, which the format does not know");
  EXPECT_EQ(write_error(folder / "a", {{"__metadata__", at::empty({2})}}),
            "[write_safetensors] tensor name '__metadata__' is empty, reserved or used twice");
  EXPECT_EQ(write_error(folder / "a", {{"\xff", at::empty({2})}}).find("[write_safetensors] invalid UTF-8"),
            0u);
}

}  // namespace
}  // namespace instseg
