// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace instseg {

/**
 * Parses one JSON document. Throws ValueError starting with `where` ("[read_model_file] a.safetensors: ") on
 * syntax errors and bad UTF-8 (with the byte offset), on duplicate keys, which plain parsers merge silently,
 * on nesting deeper than 32 levels and on objects of more than 20 000 names.
 */
nlohmann::ordered_json parse_json(std::string_view text, const std::string& where);

/** JSON text of `value`; ValueError starting with `where` when a string is not UTF-8. */
std::string dump_json(const nlohmann::ordered_json& value, const std::string& where, int indent = -1);

/** `text` for a one-line message: control and non-ASCII characters escaped as in JSON, long texts cut. */
std::string printable(const std::string& text);

}  // namespace instseg
