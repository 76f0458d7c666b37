// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include "instseg/error.h"
#include "io/closest.h"
#include "io/strict_json.h"
#include "models/config_fields.h"

/** JSON of any config struct, driven by visit_fields. */
namespace instseg {

using ConfigJson = nlohmann::ordered_json;

/** Object with every field of `config`, in order. */
template <ConfigStruct C>
ConfigJson config_to_json(const C& config) {
  ConfigJson object = ConfigJson::object();
  visit_fields(config, [&](const char* name, const auto& value, const char*) {
    if constexpr (ConfigStruct<std::remove_cvref_t<decltype(value)>>) {
      object[name] = config_to_json(value);
    } else {
      object[name] = value;
    }
  });
  return object;
}

/** Throws "[type] path: expected X, got Y". */
[[noreturn]] void throw_json_type(const std::string& type, const std::string& path, const char* expected,
                                  const ConfigJson& got);

template <class T>
struct ConfigValue;  // how one field type is read; the primary template is never used

template <>
struct ConfigValue<bool> {
  static constexpr const char* expected = "true or false";
  static bool accepts(const ConfigJson& json) { return json.is_boolean(); }
};

template <>
struct ConfigValue<int64_t> {
  static constexpr const char* expected = "an integer";
  static bool accepts(const ConfigJson& json) {
    if (json.is_number_unsigned()) {
      return json.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    }
    return json.is_number_integer();
  }
};

template <>
struct ConfigValue<double> {
  static constexpr const char* expected = "a number";
  static bool accepts(const ConfigJson& json) { return json.is_number(); }
};

template <>
struct ConfigValue<std::string> {
  static constexpr const char* expected = "a string";
  static bool accepts(const ConfigJson& json) { return json.is_string(); }
};

template <class T>
void json_to_value(const ConfigJson& json, T& value, const std::string& type, const std::string& path) {
  if (!ConfigValue<T>::accepts(json)) throw_json_type(type, path, ConfigValue<T>::expected, json);
  value = json.get<T>();
}

template <class T>
void json_to_value(const ConfigJson& json, std::vector<T>& values, const std::string& type,
                   const std::string& path) {
  if (!json.is_array()) throw_json_type(type, path, "a list", json);
  std::vector<T> read(json.size());
  for (size_t i = 0; i < read.size(); ++i) json_to_value(json[i], read[i], type, join(path, "[", i, "]"));
  values = std::move(read);
}

/**
 * Overwrites the fields of `config` that `json` names; the others keep their values. `type` and `path` ("" or
 * "head.") only serve the message of the ValueError on unknown fields and wrong types.
 */
template <ConfigStruct C>
void json_to_config(const ConfigJson& json, C& config, const std::string& type,
                    const std::string& path = "") {
  if (!json.is_object()) {
    throw_json_type(type, path.empty() ? "config" : path.substr(0, path.size() - 1), "an object", json);
  }
  for (const auto& [key, item] : json.items()) {
    bool known = false;
    visit_fields(config, [&](const char* name, auto& value, const char*) {
      if (key != name) return;
      known = true;
      if constexpr (ConfigStruct<std::remove_cvref_t<decltype(value)>>) {
        json_to_config(item, value, type, path + key + ".");
      } else {
        json_to_value(item, value, type, path + key);
      }
    });
    if (known) continue;
    const std::vector<std::string> names = field_names<C>();
    const std::vector<std::string> close = closest_names(key, names, 1);
    throw ValueError(
        join("[", type, "] ", path, printable(key), ": unknown field; ",
             close.empty() ? "the fields are " + comma_list(names) : "did you mean '" + close[0] + "'?"));
  }
}

}  // namespace instseg
