// SPDX-License-Identifier: Apache-2.0
// A bounded random mutator for the model-file reader: every mutated file either loads or throws
// instseg::Error. Run it under the sanitizers (they turn any out-of-range access into a failure); the
// sequence depends on the seed alone.
#include <ATen/ops/arange.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/sum.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "instseg/error.h"
#include "instseg/presets.h"
#include "io/model_file_content.h"
#include "io/safetensors.h"
#include "io/safetensors_bytes.h"

namespace instseg {
namespace {

using instseg::testing::file_bytes;
using instseg::testing::read_bytes;
using instseg::testing::TemporaryFolder;

constexpr int kMutations = 24'000;

class Mutator {
 public:
  Mutator(std::vector<std::string> seeds, uint32_t seed) : seeds_(std::move(seeds)), random_(seed) {}

  std::string next() {
    std::string bytes = seeds_[below(seeds_.size())];
    for (size_t round = 1 + below(3); round > 0 && !bytes.empty(); --round) mutate(bytes);
    return bytes;
  }

 private:
  size_t below(size_t limit) { return std::uniform_int_distribution<size_t>(0, limit - 1)(random_); }

  // Half of the positions fall into the header, where the structure is.
  size_t position(const std::string& bytes) {
    return below(2) == 0 ? below(std::min<size_t>(bytes.size(), 400)) : below(bytes.size());
  }

  void mutate(std::string& bytes) {
    switch (below(8)) {
      case 0:
        return flip_bit(bytes);
      case 1:
        return set_byte(bytes);
      case 2:
        bytes.resize(below(bytes.size() + 1));
        return;
      case 3:
        return splice(bytes);
      case 4:
        return change_length(bytes);
      case 5:
        return change_number(bytes);
      default:
        return edit_header(bytes);
    }
  }

  void flip_bit(std::string& bytes) { bytes[position(bytes)] ^= static_cast<char>(1 << below(8)); }

  void set_byte(std::string& bytes) {
    const std::string interesting("\0\xff\x7f{}[]\",:0-e.\\u", 17);
    bytes[position(bytes)] = interesting[below(interesting.size())];
  }

  // A piece of some valid file, inserted or written over.
  void splice(std::string& bytes) {
    const std::string& other = seeds_[below(seeds_.size())];
    const size_t from = below(other.size());
    const std::string piece = other.substr(from, below(64) + 1);
    const size_t at = position(bytes);
    bytes.replace(at, below(2) == 0 ? 0 : std::min(piece.size(), bytes.size() - at), piece);
  }

  void change_length(std::string& bytes) {
    if (bytes.size() < 8) return;
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    const uint64_t values[] = {0,
                               1,
                               length - 1,
                               length + 1,
                               bytes.size() - 8,
                               bytes.size() - 7,
                               100'000'000,
                               ~uint64_t{0},
                               uint64_t{1} << 63};
    length = values[below(std::size(values))];
    std::memcpy(bytes.data(), &length, 8);
  }

  void change_number(std::string& bytes) {
    const size_t at = bytes.find_first_of("0123456789", position(bytes));
    if (at == std::string::npos) return;
    const size_t end = std::min(bytes.find_first_not_of("0123456789", at), bytes.size());
    const char* values[] = {"0",
                            "1",
                            "-1",
                            "2",
                            "4294967296",
                            "9223372036854775807",
                            "9223372036854775808",
                            "18446744073709551616",
                            "1e308",
                            "0.5"};
    replace_in_header(bytes, at, end - at, values[below(std::size(values))]);
  }

  void edit_header(std::string& bytes) {
    const std::pair<const char*, const char*> edits[] = {
        {"F32", "F64"},     {"I64", "BOOL"},       {"U8", "F99"},      {"shape", "shap"},
        {"dtype", "shape"}, {"[", "[["},           {"]", ""},          {"{", "{\"a\":{},"},
        {"}", "},"},        {"instseg", "other"},  {"\"1\"", "\"2\""}, {"gn", "ln"},
        {"norm", "nrom"},   {"true", "1"},         {",", ",0,"},       {"data_offsets", ""},
        {"\"", "\\\""},     {":", ":null,\"z\":"}, {"pillow", "\xff"}, {"0.", "-1e400."}};
    const auto& [from, to] = edits[below(std::size(edits))];
    size_t at = bytes.find(from, position(bytes));
    if (at == std::string::npos) at = bytes.find(from);
    if (at != std::string::npos) replace_in_header(bytes, at, std::strlen(from), to);
  }

  // Keeps the header length right, so that the edit is reached.
  static void replace_in_header(std::string& bytes, size_t at, size_t count, const std::string& text) {
    if (at < 8 || bytes.size() < 8) return;
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    const bool inside = at + count <= 8 + length;
    bytes.replace(at, count, text);
    length += text.size() - count;
    if (inside) std::memcpy(bytes.data(), &length, 8);
  }

  std::vector<std::string> seeds_;
  std::mt19937 random_;
};

std::vector<std::string> valid_files() {
  const TemporaryFolder folder;
  std::vector<std::string> files;
  ModelFile file;
  file.config = find_preset("torchvision_fcos_resnet50_fpn").config;
  file.summary = R"({"epochs": 3, "note": "caf\u00e9"})";
  file.tensors = {{"head.scales.0", at::arange(1, at::kFloat)},
                  {"backbone.stem.weight", at::randint(0, 200, {2, 3, 3}, at::kFloat)},
                  {"backbone.stem.norm.num_batches_tracked", at::arange(2, at::kLong)},
                  {"flags", at::randint(0, 2, {5}, at::kByte).to(at::kBool)},
                  {"half", at::arange(7, at::kHalf)}};
  write_model_file(folder / "a", file);
  files.push_back(read_bytes(folder / "a"));
  file.config = ModelConfig();
  file.tensors = {{"t", at::arange(4, at::kBFloat16)}};
  write_model_file(folder / "a", file);
  files.push_back(read_bytes(folder / "a"));
  files.push_back(file_bytes(R"({"a":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]},)"
                             R"("b":{"dtype":"I16","shape":[0],"data_offsets":[2,2]}})",
                             "xy"));
  return files;
}

// Touches every byte of what was read.
double use(const Safetensors& file) {
  double total = 0;
  for (const auto& [name, tensor] : file.tensors) total += at::sum(tensor, at::kDouble).item<double>();
  return total;
}

TEST(SafetensorsFuzz, MutatedFilesLoadOrThrowOurError) {
  Mutator mutator(valid_files(), 20260401);
  int containers = 0, models = 0, refused = 0;
  for (int i = 0; i < kMutations; ++i) {
    const std::string bytes = mutator.next();
    // An exact copy on the heap: the sanitizer sees a read past the last byte.
    const std::vector<char> exact(bytes.begin(), bytes.end());
    try {
      Safetensors file = parse_safetensors(exact.data(), exact.size(), "mutated");
      use(file);
      ++containers;
      model_file_content(std::move(file), "mutated");
      ++models;
    } catch (const Error& error) {
      ++refused;
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    } catch (const std::exception& error) {
      FAIL() << "mutation " << i << " threw another type: " << error.what();
    }
  }
  // The mutator must reach beyond the first checks, and the reader must refuse a fair share.
  EXPECT_GT(models, kMutations / 100);
  EXPECT_GT(containers, models);
  EXPECT_GT(refused, kMutations / 4);
}

}  // namespace
}  // namespace instseg
