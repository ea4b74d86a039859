#include "state.hpp"

#include <algorithm>
#include <string_view>

#include "arrays.hpp"
#include "datasparse/error.hpp"
#include "datasparse/state_entries.hpp"
#include "params.hpp"
#include "self.hpp"

namespace py = pybind11;
using datasparse::ParamMap;
using datasparse::ValueError;

namespace {

/// States as Python's dicts.
struct PythonForm {
  using Value = py::object;

  static bool is_dict(const py::object& value) { return PyDict_Check(value.ptr()); }
  static bool is_none(const py::object& value) { return value.is_none(); }
  static std::string kind(const py::object& value) { return class_name(value); }
  static py::object find(const py::object& dict, const std::string& key) {
    return py::reinterpret_borrow<py::object>(
        py::detail::dict_getitem(dict.ptr(), py::str(key).ptr()));
  }
  static std::vector<std::string> keys(const py::object& dict, const std::string& path) {
    std::vector<std::string> result;
    for (const auto& item : py::reinterpret_borrow<py::dict>(dict)) {
      if (!PyUnicode_Check(item.first.ptr())) {
        throw ValueError("a key of " + path + " must be a str, got " +
                         std::string(py::repr(item.first)));
      }
      result.push_back(to_text(item.first));
    }
    return result;
  }

  /// Of a bool, an int or a str.
  template <class T>
  static bool get(py::handle value, T& field, const std::string& path) {
    PyObject* const object = value.ptr();
    const bool fits = std::is_same_v<T, bool> ? PyBool_Check(object)
                      : std::is_same_v<T, std::string>
                          ? PyUnicode_Check(object)
                          : PyLong_Check(object) && !PyBool_Check(object);
    if (fits) field = *to_param(value, path, "").template get_if<T>();
    return fits;
  }
  static bool get(py::handle value, std::vector<std::int64_t>& field, const std::string& path) {
    if (!PyTuple_Check(value.ptr()) && !PyList_Check(value.ptr())) return false;
    return std::all_of(value.begin(), value.end(),
                       [&](py::handle item) { return get(item, field.emplace_back(), path); });
  }
  static bool get(py::handle value, ParamMap& field, const std::string& path) try {
    if (!PyDict_Check(value.ptr())) return false;
    field = to_param_map(value, path);
    return true;
  } catch (const datasparse::TypeError& error) {
    throw ValueError(error.what());
  }
  static bool get(py::handle value, datasparse::PackedBits& field, const std::string&) {
    if (!PyBytes_Check(value.ptr())) return false;
    const auto view = value.cast<std::string_view>();
    const auto* const first = reinterpret_cast<const std::uint8_t*>(view.data());
    field.assign(first, first + view.size());
    return true;
  }
};
using PythonState = datasparse::StateDict<PythonForm>;

using ::to_python;
py::object to_python(const datasparse::Axes& shape) { return to_tuple(shape); }
py::object to_python(const datasparse::PackedBits& bits) {
  return py::bytes(reinterpret_cast<const char*>(bits.data()), bits.size());
}
py::object to_python(const datasparse::KeptArrays& arrays) {
  py::dict result;
  for (const auto& [key, array] : arrays) {
    py::dict entry;
    entry["dtype"] = name_of(array.type());
    entry["shape"] = to_tuple(array.shape());
    entry["bytes"] = py::bytes(reinterpret_cast<const char*>(array.data()), array.byte_count());
    result[py::str(key)] = entry;
  }
  return result;
}

/// The archive that fills a dict.
struct IntoDict {
  py::dict dict;
  std::int64_t version = datasparse::state_version;

  template <class T>
  void operator()(const char* key, const T& field) const {
    if constexpr (std::is_constructible_v<datasparse::ParamValue, T>) {
      dict[key] = py::cast(field);
    } else {
      dict[key] = to_python(field);
    }
  }
  template <class T>
  void optional(const char* key, const T& field) const {
    dict[key] = field.begin() == field.end() ? py::none() : to_python(field);
  }
  template <class T>
  void if_any(const char* key, const T& field) const {
    if (!field.empty()) (*this)(key, field);
  }
};

PythonState state_in(const py::object& dict) {
  PythonState state(dict, "state_dict");
  state("version", state.version);
  datasparse::require_version(state.version);
  return state;
}

/// The entry, a dict whose keys are names.
py::dict named(const PythonState& state, const char* key) {
  const py::object value = state.at(key);
  const PythonState checked(value, state.path(key));
  for (const auto& item : py::reinterpret_borrow<py::dict>(value)) {
    if (PyUnicode_Check(item.first.ptr())) continue;
    throw ValueError(state.path(key) + " must have names as keys, got " +
                     std::string(py::repr(item.first)));
  }
  return value;
}

}  // namespace

py::dict to_state_dict(const datasparse::SparsifierState& state) {
  const IntoDict result;
  result("version", state.version);
  each_sparsifier_entry(result, state);
  py::dict groups;
  for (const auto& group : state.groups) {
    const IntoDict entry;
    entry.dict["config"] = py::none();  // filled in below; the first, as it was in 0.1.0
    each_group_entry(entry, group);
    groups[py::str(group.name)] = entry.dict;
  }
  result.dict["data_groups"] = groups;
  return result.dict;
}

py::dict to_state_dict(const datasparse::SchedulerState& state) {
  const IntoDict result;
  result("version", state.version);
  each_scheduler_entry(result, state);
  return result.dict;
}

datasparse::SparsifierState to_sparsifier_state(const py::object& state_dict) {
  const PythonState saved = state_in(state_dict);
  datasparse::SparsifierState state;
  state.version = saved.version;
  each_sparsifier_entry(saved, state);
  for (const auto& [name, entries] : named(saved, "data_groups")) {
    auto& group = state.groups.emplace_back();
    group.name = to_text(name);
    const PythonState saved_group(py::reinterpret_borrow<py::object>(entries),
                                  "state_dict['data_groups']['" + group.name + "']", saved.version);
    each_group_entry(saved_group, group);
  }
  return state;
}

datasparse::SchedulerState to_scheduler_state(const py::object& state_dict) {
  datasparse::SchedulerState state;
  const PythonState saved = state_in(state_dict);
  each_scheduler_entry(saved, state);
  return state;
}

py::dict saved_attributes(const py::object& state_dict) {
  const py::dict attributes = named(PythonState(state_dict, "state_dict"), "attributes");
  return py::module_::import("copy").attr("deepcopy")(attributes);
}
