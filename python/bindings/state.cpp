#include "state.hpp"

#include <string_view>

#include "datasparse/error.hpp"
#include "params.hpp"
#include "self.hpp"

namespace py = pybind11;
using datasparse::ParamMap;
using datasparse::ValueError;

namespace {

/// A dict of a loaded state, whose entries name themselves when they do not fit.
class Entries {
 public:
  Entries(const py::object& dict, std::string where) : where_(std::move(where)) {
    if (!py::isinstance<py::dict>(dict)) refuse(where_, "a dict", dict);
    dict_ = py::reinterpret_borrow<py::dict>(dict);
  }

  template <class T>
  T get(const char* key) const {
    const py::object value = at(key);
    if constexpr (std::is_same_v<T, bool>) {
      if (!PyBool_Check(value.ptr())) refuse(path(key), "a bool", value);
    } else if constexpr (std::is_same_v<T, std::int64_t>) {
      if (PyBool_Check(value.ptr()) || !PyLong_Check(value.ptr()))
        refuse(path(key), "an int", value);
      return fitting(key, value);
    } else {
      static_assert(std::is_same_v<T, std::string>);
      if (!PyUnicode_Check(value.ptr())) refuse(path(key), "a str", value);
    }
    return value.cast<T>();
  }

  ParamMap params(const char* key) const {
    const Entries inner(at(key), path(key));
    try {
      return to_param_map(inner.dict_, path(key));
    } catch (const datasparse::TypeError& error) {
      throw ValueError(std::string(error.what()));
    }
  }

  datasparse::Axes shape(const char* key) const {
    const py::object value = at(key);
    if (!PyTuple_Check(value.ptr()) && !PyList_Check(value.ptr()))
      refuse(path(key), "a tuple of int", value);
    datasparse::Axes axes;
    for (const auto item : value) {
      if (PyBool_Check(item.ptr()) || !PyLong_Check(item.ptr()))
        refuse(path(key), "a tuple of int", value);
      axes.push_back(fitting(key, item));
    }
    return axes;
  }

  /// Whether the entry, which must be there, is None.
  bool is_none(const char* key) const { return at(key).is_none(); }

  datasparse::PackedBits bytes(const char* key) const {
    const py::object value = at(key);
    if (!PyBytes_Check(value.ptr())) refuse(path(key), "bytes", value);
    const auto view = value.cast<std::string_view>();
    const auto* const first = reinterpret_cast<const std::uint8_t*>(view.data());
    return {first, first + view.size()};
  }

  datasparse::PackedBits some_bytes(const char* key) const {
    auto some = bytes(key);
    if (some.empty()) throw ValueError(path(key) + " must be None or some bytes, got b''");
    return some;
  }

  py::dict dict(const char* key) const { return Entries(at(key), path(key)).dict_; }

 private:
  [[noreturn]] static void refuse(const std::string& where, const char* expected,
                                  py::handle value) {
    throw ValueError(where + " must be " + expected + ", got " + class_name(value));
  }

  std::int64_t fitting(const char* key, py::handle value) const {
    int overflow = 0;
    const std::int64_t integer = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
    if (overflow != 0)
      throw ValueError(path(key) + " must fit into 64 bits, got " + std::string(py::repr(value)));
    return integer;
  }

  std::string path(const char* key) const { return where_ + "['" + key + "']"; }

  py::object at(const char* key) const {
    if (!dict_.contains(key)) throw ValueError(where_ + " has no entry '" + key + "'");
    return dict_[key];
  }

  std::string where_;
  py::dict dict_;
};

}  // namespace

py::tuple to_tuple(const datasparse::Axes& shape) {
  py::tuple tuple(static_cast<std::size_t>(shape.size()));
  for (int axis = 0; axis < shape.size(); ++axis)
    tuple[static_cast<std::size_t>(axis)] = shape[axis];
  return tuple;
}

namespace {

py::bytes to_bytes(const datasparse::PackedBits& bits) {
  return py::bytes(reinterpret_cast<const char*>(bits.data()), bits.size());
}

}  // namespace

py::dict to_state_dict(const datasparse::SparsifierState& state) {
  py::dict groups;
  for (const auto& group : state.groups) {
    py::dict entry;
    entry["config"] = to_python(group.config);
    entry["shape"] = to_tuple(group.shape);
    entry["mask"] = to_bytes(group.mask_bits);
    entry["squashed"] = group.squashed;
    entry["state"] = to_python(group.state);
    entry["layout"] =
        group.layout.size() == 0 ? py::object(py::none()) : py::object(to_tuple(group.layout));
    entry["kept_zeros"] =
        group.kept_zeros.empty() ? py::object(py::none()) : py::object(to_bytes(group.kept_zeros));
    entry["update"] = group.updates;
    groups[py::str(group.name)] = entry;
  }
  py::dict result;
  result["version"] = state.version;
  result["step_count"] = state.step_count;
  result["enable_mask_update"] = state.enable_mask_update;
  result["defaults"] = to_python(state.defaults);
  result["data_groups"] = groups;
  return result;
}

py::dict to_state_dict(const datasparse::SchedulerState& state) {
  py::dict result;
  result["version"] = state.version;
  result["schedule_param"] = state.schedule_param;
  result["last_epoch"] = state.last_epoch;
  result["base_param"] = to_python(state.base_param);
  result["last_param"] = to_python(state.last_param);
  result["own"] = to_python(state.own);
  result["counts_renewals"] = state.counts_renewals;
  return result;
}

datasparse::SparsifierState to_sparsifier_state(const py::object& state_dict) {
  const Entries entries(state_dict, "state_dict");
  datasparse::SparsifierState state;
  state.version = entries.get<std::int64_t>("version");
  if (state.version < 1 || state.version > datasparse::SparsifierState::current_version)
    return state;  // the core refuses it
  state.step_count = entries.get<std::int64_t>("step_count");
  state.enable_mask_update = entries.get<bool>("enable_mask_update");
  state.defaults = entries.params("defaults");
  for (const auto& item : entries.dict("data_groups")) {
    if (!PyUnicode_Check(item.first.ptr())) {
      throw ValueError("state_dict['data_groups'] must have names as keys, got " +
                       std::string(py::repr(item.first)));
    }
    const auto name = item.first.cast<std::string>();
    const Entries entry(py::reinterpret_borrow<py::object>(item.second),
                        "state_dict['data_groups']['" + name + "']");
    datasparse::GroupState group{name,
                                 entry.params("config"),
                                 entry.shape("shape"),
                                 entry.bytes("mask"),
                                 entry.get<bool>("squashed"),
                                 entry.params("state")};
    if (state.version > 1) {
      if (!entry.is_none("layout")) group.layout = entry.shape("layout");
      if (!entry.is_none("kept_zeros")) group.kept_zeros = entry.some_bytes("kept_zeros");
      group.updates = entry.get<bool>("update");
    }
    state.groups.push_back(std::move(group));
  }
  return state;
}

datasparse::SchedulerState to_scheduler_state(const py::object& state_dict) {
  const Entries entries(state_dict, "state_dict");
  datasparse::SchedulerState state;
  state.version = entries.get<std::int64_t>("version");
  if (state.version < 1 || state.version > datasparse::SchedulerState::current_version)
    return state;  // the core refuses it
  state.schedule_param = entries.get<std::string>("schedule_param");
  state.last_epoch = entries.get<std::int64_t>("last_epoch");
  state.base_param = entries.params("base_param");
  state.last_param = entries.params("last_param");
  state.own = entries.params("own");
  if (state.version > 1) state.counts_renewals = entries.get<bool>("counts_renewals");
  return state;
}

py::dict saved_attributes(const py::object& state_dict) {
  const py::dict attributes = Entries(state_dict, "state_dict").dict("attributes");
  for (const auto& item : attributes) {
    if (!PyUnicode_Check(item.first.ptr())) {
      throw ValueError("state_dict['attributes'] must have names as keys, got " +
                       std::string(py::repr(item.first)));
    }
  }
  return py::module_::import("copy").attr("deepcopy")(attributes);
}
