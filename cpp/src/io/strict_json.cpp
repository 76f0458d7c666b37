// SPDX-License-Identifier: Apache-2.0
#include "io/strict_json.h"

#include <algorithm>
#include <unordered_set>
#include <vector>

#include "instseg/error.h"

namespace instseg {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxDepth = 32;
constexpr size_t kMaxNames = 20'000;  // per object: looking names up in an ordered object is linear

// Without the library's "[json.exception.parse_error.101] parse error at line 1, column 5: " and without the
// bytes it quotes at the end, which may not be printable.
std::string reason_of(std::string what) {
  if (what.starts_with('[')) what.erase(0, what.find("] ") + 2);
  if (what.starts_with("parse error at ")) what.erase(0, what.find(": ") + 2);
  return what.substr(0, what.find("; last read"));
}

// Only looks: rejects what the document parser would accept silently, before anything is built.
class Inspector : public nlohmann::json_sax<Json> {
 public:
  Inspector(size_t size, const std::string& where) : size_(size), where_(where) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }

  bool start_object(size_t) override {
    open();
    keys_.emplace_back();
    return true;
  }
  bool end_object() override {
    keys_.pop_back();
    --depth_;
    return true;
  }
  bool start_array(size_t) override {
    open();
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(string_t& name) override {
    check<ValueError>(keys_.back().insert(name).second, where_, "duplicate name '", printable(name), "'");
    check<ValueError>(keys_.back().size() <= kMaxNames, where_, "more than ", kMaxNames,
                      " names in one object");
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    throw ValueError(
        join(where_, "not valid JSON at byte ", std::min(position, size_), ": ", reason_of(error.what())));
  }

 private:
  void open() {
    check<ValueError>(++depth_ <= kMaxDepth, where_, "nested deeper than ", kMaxDepth, " levels");
  }

  size_t size_;
  const std::string& where_;
  int depth_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;
};

}  // namespace

nlohmann::ordered_json parse_json(std::string_view text, const std::string& where) {
  // Said here, because the library's own words for it differ between its versions.
  check<ValueError>(!text.empty(), where, "not valid JSON at byte 0: the text is empty");
  Inspector inspector(text.size(), where);
  Json::sax_parse(text.begin(), text.end(), &inspector);
  return Json::parse(text.begin(), text.end());
}

std::string dump_json(const nlohmann::ordered_json& value, const std::string& where, int indent) {
  try {
    return value.dump(indent);
  } catch (const Json::exception& error) {
    throw ValueError(join(where, reason_of(error.what())));
  }
}

std::string printable(const std::string& text) {
  const std::string quoted = Json(text).dump(-1, ' ', true, Json::error_handler_t::replace);
  const std::string inner = quoted.substr(1, quoted.size() - 2);
  return inner.size() <= 120 ? inner : inner.substr(0, 117) + "...";
}

}  // namespace instseg
