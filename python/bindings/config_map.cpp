#include "config_map.hpp"

#include "collector.hpp"
#include "datasparse/data_sparsifier.hpp"
#include "datasparse/error.hpp"
#include "datasparse/group_params.hpp"
#include "datasparse/group_table.hpp"
#include "gil.hpp"
#include "params.hpp"
#include "self.hpp"

namespace py = pybind11;
using datasparse::BaseDataSparsifier;
using datasparse::GroupParams;
using datasparse::GroupTable;
using datasparse::ParamMap;

namespace {

/// StateError where the collector has taken the mapping apart.
void require_present(const py::object& sparsifier) {
  if (!sparsifier) throw datasparse::StateError("the sparsifier of this mapping is gone");
}

BaseDataSparsifier& core(const py::object& sparsifier) {
  require_present(sparsifier);
  return *Self<BaseDataSparsifier>(sparsifier);
}

/// Replaces the defaults or a state by what change(map) makes of it.
template <class Change>
void rewrite(BaseDataSparsifier& sparsifier, Shows shows, const std::string& name,
             const Change& change) {
  if (shows == Shows::state) return GroupParams(sparsifier).change_state(name, change);
  GroupParams(sparsifier).change_defaults(change);
}

template <class Map>
struct ViewAccess {
  static int traverse(Map& self, visitproc visit, void* arg) {
    Py_VISIT(self.sparsifier().ptr());
    return 0;
  }
  static void clear(Map& self) { const py::object taken = std::move(self.sparsifier()); }
};

}  // namespace

// --- one config -------------------------------------------------------------------------------

BaseDataSparsifier& ConfigMap::core() const {
  require_present(sparsifier_);
  return *core_;
}

py::dict ConfigMap::to_dict() const {
  const auto& sparsifier = core();
  return to_python(without_gil([&] {
    if (shows_ == Shows::config) return sparsifier.config(name_);
    return shows_ == Shows::state ? sparsifier.state(name_) : sparsifier.defaults();
  }));
}

py::object ConfigMap::get(const std::string& key) const {
  const auto& sparsifier = core();
  if (shows_ == Shows::config) {
    // Giving the interpreter's lock away and taking it back costs more than the reading.
    if (const auto value = GroupTable(sparsifier).try_value(name_, key, place_))
      return to_python(*value);
  }
  const auto value = without_gil([&] {
    if (shows_ == Shows::config) return sparsifier.config_value(name_, key);
    return (shows_ == Shows::state ? sparsifier.state(name_) : sparsifier.defaults()).at(key);
  });
  return to_python(value);
}

void ConfigMap::update(const py::dict& changes) {
  auto& sparsifier = core();
  const ParamMap values = to_param_map(changes, name_);
  without_gil([&] {
    if (shows_ == Shows::config) return sparsifier.update_config(name_, values);
    rewrite(sparsifier, shows_, name_, [&](ParamMap& map) { map.update(values); });
  });
}

void ConfigMap::erase(const std::string& key) {
  auto& sparsifier = core();
  without_gil([&] {
    if (shows_ == Shows::config) return GroupParams(sparsifier).erase(name_, key);
    rewrite(sparsifier, shows_, name_, [&](ParamMap& map) {
      map.at(key);  // for its message
      map.erase(key);
    });
  });
}

// --- all groups -------------------------------------------------------------------------------

ConfigMap GroupMap::get(const std::string& name) const {
  auto& sparsifier = core(sparsifier_);
  without_gil([&] { sparsifier.squashed(name); });  // throws for an unknown name
  return {sparsifier_, sparsifier, shows_, name};
}

void GroupMap::replace(const py::dict& groups) {
  auto& sparsifier = core(sparsifier_);
  std::vector<std::pair<std::string, ParamMap>> maps;
  for (const auto& item : to_dict(groups, "the groups are a dict")) {
    const auto name = to_text(item.first);
    maps.emplace_back(name, to_param_map(item.second, name));
  }
  without_gil([&] {
    if (shows_ == Shows::config) return GroupParams(sparsifier).replace(maps);
    for (const auto& item : maps) sparsifier.state(item.first);  // throws for an unknown name
    for (const auto& [name, map] : maps) sparsifier.replace_state(name, map);
  });
}

bool GroupMap::contains(const std::string& name) const {
  const auto& sparsifier = core(sparsifier_);
  return without_gil([&] { return sparsifier.contains(name); });
}

std::vector<std::string> GroupMap::names() const {
  const auto& sparsifier = core(sparsifier_);
  return without_gil([&] { return sparsifier.names(); });
}

py::dict GroupMap::to_dicts() const {
  const GroupTable table(core(sparsifier_));
  const auto maps =
      without_gil([&] { return shows_ == Shows::state ? table.states() : table.configs(); });
  py::dict result;
  for (const auto& [name, map] : maps) result[py::str(name)] = to_python(map);
  return result;
}

GroupItemsIterator GroupMap::iterate_items() const {
  return {sparsifier_, core(sparsifier_), shows_, names()};
}

std::optional<py::tuple> GroupItemsIterator::next() {
  if (place_ == names_.size()) return std::nullopt;
  require_present(sparsifier_);
  const std::string& name = names_[place_];
  py::tuple item =
      py::make_tuple(py::str(name), ConfigMap(sparsifier_, *core_, shows_, name, place_));
  ++place_;  // once nothing can fail any more
  return item;
}

namespace {

// A scheduler in Python reads a value of every group in every step. Here are the two calls that it
// makes without pybind11's look-ups, which take longer than the reading.

/// What call() returns; what it throws is raised, as pybind11 does.
template <class Call>
PyObject* raising(const Call& call) {
  try {
    return call();
#ifdef __GLIBCXX__
  } catch (abi::__forced_unwind&) {  // a thread that is ended
    throw;
#endif
  } catch (...) {
    py::detail::try_translate_exceptions();
    return nullptr;
  }
}

/// config[key].
PyObject* subscript(PyObject* self, PyObject* key) {
  if (!PyUnicode_Check(key) || !py::detail::is_holder_constructed(self))
    return PyObject_CallMethod(self, "__getitem__", "(O)", key);  // which refuses it
  return raising([&] { return held_by<ConfigMap>(self).get(to_text(key)).release().ptr(); });
}

/// next(iterator).
PyObject* next_item(PyObject* self) {
  return raising([&] {
    auto item = held_by<GroupItemsIterator>(self).next();
    return item ? item->release().ptr() : nullptr;  // which stands for StopIteration
  });
}

}  // namespace

void register_config_maps(py::module_& module) {
  py::class_<ConfigMap> config(
      module, "ConfigMap",
      "The config of one group as a live dict: reading shows the sparsifier's values, writing "
      "checks the\n"
      "whole config and raises TypeError or ValueError without having written anything.\n\n"
      "Values are None, bool, int, float, str or tuples of numbers.",
      collected<ConfigMap, ViewAccess<ConfigMap>, Created::by_us>());
  config.def("__getitem__", [](const ConfigMap& self, const Name& key) { return self.get(key); })
      .def("__setitem__",
           [](ConfigMap& self, const py::str& key, const py::object& value) {
             py::dict change;
             change[key] = value;
             self.update(change);
           })
      .def("__delitem__", [](ConfigMap& self, const Name& key) { self.erase(key); })
      .def("_write", &ConfigMap::update)
      .def("copy", &ConfigMap::to_dict, "A plain dict.");

  py::class_<GroupMap> groups(
      module, "GroupMap",
      "The configs of all groups by name, as a live dict of live dicts. Groups come and\n"
      "go by add_data() and remove_data() only.",
      collected<GroupMap, ViewAccess<GroupMap>, Created::by_us>());
  groups.def("__getitem__", [](const GroupMap& self, const Name& name) { return self.get(name); })
      .def("__setitem__",
           [](GroupMap& self, const py::str& name, const py::object& config_of_group) {
             py::dict change;
             change[name] = config_of_group;
             self.replace(change);
           })
      .def("__delitem__",
           [](GroupMap&, const Name& name) {
             throw datasparse::TypeError("a group is removed by remove_data('" + name +
                                         "'), not by del");
           })
      .def("__contains__",
           [](const GroupMap& self, const py::object& name) {
             return py::isinstance<py::str>(name) && self.contains(to_text(name));
           })
      .def("__len__", [](const GroupMap& self) { return self.names().size(); })
      .def("__iter__",
           [](const GroupMap& self) {
             py::list names;
             for (const auto& name : self.names()) names.append(py::str(name));
             return py::iter(names);
           })
      .def("_iterate_items", &GroupMap::iterate_items)
      .def("_write", &GroupMap::replace)
      .def("copy", &GroupMap::to_dicts, "A plain dict.");

  py::module_::import("datasparse._views").attr("complete")(config, groups);
  reinterpret_cast<PyHeapTypeObject*>(config.ptr())->as_mapping.mp_subscript = &subscript;

  py::class_<GroupItemsIterator> items(
      module, "_GroupItemsIterator", "See GroupMap.items().",
      collected<GroupItemsIterator, ViewAccess<GroupItemsIterator>, Created::by_us>());
  items.def("__iter__", [](const py::object& self) { return self; })
      .def("__next__", [](GroupItemsIterator& self) {
        if (auto item = self.next()) return *item;
        throw py::stop_iteration();
      });
  reinterpret_cast<PyTypeObject*>(items.ptr())->tp_iternext = &next_item;
}
