// SPDX-License-Identifier: Apache-2.0
#include "instseg/config.h"

#include "casters.h"
#include "instseg/error.h"
#include "instseg/presets.h"
#include "models/config_fields.h"

namespace instseg {

namespace {

std::string type_name(py::handle value) { return py::type::of(value).attr("__name__").cast<std::string>(); }

template <class T>
const char* expected() {
  if constexpr (std::is_same_v<T, bool>) return "a bool";
  if constexpr (std::is_same_v<T, int64_t>) return "an int";
  if constexpr (std::is_same_v<T, double>) return "a number";
  if constexpr (std::is_same_v<T, std::string>) return "a str";
  if constexpr (std::is_same_v<T, std::vector<std::string>>) return "a list of str";
  if constexpr (std::is_same_v<T, std::vector<int64_t>>) return "a list of int";
  if constexpr (std::is_same_v<T, std::vector<double>>) return "a list of numbers";
  return "a dict or a config object";
}

/** pybind11 takes None and numbers for bool and True for 1: a recipe that says so has a mistake in it. */
template <class T>
bool accepts(py::handle value) {
  if constexpr (std::is_same_v<T, bool>) return PyBool_Check(value.ptr());
  if constexpr (std::is_arithmetic_v<T>) return !PyBool_Check(value.ptr());
  if constexpr (std::is_same_v<T, std::string>) return PyUnicode_Check(value.ptr());
  return !PyUnicode_Check(value.ptr());
}

/** `path` is how messages name the field: "[ModelConfig] head.norm". */
template <class T>
void assign(T& member, py::handle value, const std::string& path);

template <ConfigStruct T>
void assign_fields(T& config, const py::dict& values, const std::string& prefix) {
  for (const auto& [key, value] : values) {
    const std::string name = py::str(key);
    bool found = false;
    visit_fields(config, [&](const char* field, auto& member, const char*) {
      if (name != field) return;
      found = true;
      assign(member, value, prefix + name);
    });
    if (found) continue;
    std::string known;
    for (const std::string& field : field_names<T>()) known += (known.empty() ? "" : ", ") + field;
    throw ValueError(join(prefix, name, ": unknown field; fields are ", known));
  }
}

template <class T>
void assign(T& member, py::handle value, const std::string& path) {
  if constexpr (ConfigStruct<T>) {
    if (py::isinstance<py::dict>(value)) {
      T config;
      assign_fields(config, value.cast<py::dict>(), path + ".");
      member = std::move(config);
      return;
    }
  }
  py::detail::make_caster<T> caster;
  if (!accepts<T>(value) || !caster.load(value, true))
    throw TypeError(join(path, " must be ", expected<T>(), ", got ", py::repr(value).cast<std::string>(),
                         " (", type_name(value), ")"));
  member = py::detail::cast_op<T>(caster);
}

template <ConfigStruct T>
T from_dict(const py::dict& values) {
  T config;
  assign_fields(config, values, join("[", ConfigTraits<T>::name, "] "));
  return config;
}

template <ConfigStruct T>
py::dict to_dict(const T& config) {
  py::dict out;
  visit_fields(config, [&](const char* field, const auto& member, const char*) {
    if constexpr (ConfigStruct<std::decay_t<decltype(member)>>) {
      out[field] = to_dict(member);
    } else {
      out[field] = py::cast(member);
    }
  });
  return out;
}

template <ConfigStruct T>
std::string repr(const T& config) {
  std::string out;
  visit_fields(config, [&](const char* field, const auto& member, const char*) {
    if (!out.empty()) out += ", ";
    out += std::string(field) + "=" + py::repr(py::cast(member)).template cast<std::string>();
  });
  return std::string(ConfigTraits<T>::name) + "(" + out + ")";
}

template <ConfigStruct T>
py::object get_field(const py::object& self, const std::string& name) {
  py::object out;
  visit_fields(self.cast<T&>(), [&](const char* field, auto& member, const char*) {
    if (name != field) return;
    if constexpr (ConfigStruct<std::decay_t<decltype(member)>>) {
      out = py::cast(&member, py::return_value_policy::reference_internal, self);
    } else {
      out = py::cast(member);
    }
  });
  return out;
}

/** Keyword constructor, properties, repr, ==, to_dict, from_dict, check, copy and pickle from visit_fields.
 */
template <ConfigStruct T>
py::class_<T> bind_config(py::module_& m) {
  py::class_<T> type(m, ConfigTraits<T>::name, ConfigTraits<T>::doc);
  type.def(py::init([](const py::kwargs& values) { return from_dict<T>(values); }))
      .def_static("from_dict", &from_dict<T>, py::arg("values"),
                  "Missing fields take defaults; unknown fields and wrong types raise, naming the field.")
      .def("to_dict", &to_dict<T>, "Every field, in declaration order; nested configs as dicts.")
      .def("check", &T::check, "Raises ValueError naming the first field that cannot be used.")
      .def("__repr__", &repr<T>)
      .def(
          "__eq__", [](const T& self, const T& other) { return self == other; }, py::is_operator())
      .def("__copy__", [](const T& self) { return T(self); })
      .def(
          "__deepcopy__", [](const T& self, const py::dict&) { return T(self); }, py::arg("memo"))
      .def(py::pickle([](const T& self) { return to_dict(self); },
                      [](const py::dict& values) { return from_dict<T>(values); }));
  type.attr("__hash__") = py::none();
  T defaults;
  visit_fields(defaults, [&](const char* field, auto&, const char* field_doc) {
    const std::string key = field;
    const auto get = [key](const py::object& self) { return get_field<T>(self, key); };
    const auto set = [key](T& self, const py::object& value) {
      py::dict values;
      values[py::str(key)] = value;
      assign_fields(self, values, join("[", ConfigTraits<T>::name, "] "));
    };
    type.def_property(field, py::cpp_function(get), py::cpp_function(set), field_doc);
  });
  return type;
}

void bind_presets(py::module_& m) {
  py::class_<Preset>(m, "Preset", "A named ModelConfig and what is published about it.")
      .def_readonly("name", &Preset::name)
      .def_readonly("description", &Preset::description)
      .def_readonly("box_ap", &Preset::box_ap)
      .def_readonly("mask_ap", &Preset::mask_ap)
      .def_readonly("weights_file", &Preset::weights_file)
      .def_readonly("weights_url", &Preset::weights_url)
      .def_property_readonly("config", [](const Preset& self) { return ModelConfig(self.config); })
      .def("__repr__",
           [](const Preset& self) { return "<Preset " + self.name + ": " + self.description + ">"; });
  m.def("presets", [] { return std::vector<Preset>(presets()); });
  m.def("find_preset", [](const std::string& name) { return Preset(find_preset(name)); }, py::arg("name"));
}

}  // namespace

void init_config(py::module_& m) {
  bind_config<InputConfig>(m);
  bind_config<BackboneConfig>(m);
  bind_config<NeckConfig>(m);
  bind_config<HeadConfig>(m);
  bind_config<TargetConfig>(m);
  bind_config<LossConfig>(m);
  bind_config<PostConfig>(m);
  bind_config<BoxInstConfig>(m);
  bind_config<CondInstConfig>(m);
  bind_config<BlendMaskConfig>(m);
  bind_config<SoloConfig>(m);
  bind_config<ModelConfig>(m)
      .def("to_json", &ModelConfig::to_json, py::arg("indent") = -1)
      .def_static("from_json", &ModelConfig::from_json, py::arg("text"));
  bind_presets(m);
}

}  // namespace instseg
