#include "config_map.hpp"

#include "collector.hpp"
#include "datasparse/data_sparsifier.hpp"
#include "datasparse/error.hpp"
#include "gil.hpp"
#include "params.hpp"
#include "register.hpp"
#include "self.hpp"

namespace py = pybind11;
using datasparse::BaseDataSparsifier;
using datasparse::ParamMap;

namespace {

BaseDataSparsifier& core(const py::object& sparsifier) {
  if (!sparsifier) throw datasparse::StateError("the sparsifier of this mapping is gone");
  return *Self<BaseDataSparsifier>(sparsifier);
}

ParamMap read(const BaseDataSparsifier& sparsifier, Shows shows, const std::string& name) {
  return without_gil([&] {
    switch (shows) {
      case Shows::config: return sparsifier.config(name);
      case Shows::state: return sparsifier.state(name);
      case Shows::defaults: break;
    }
    return sparsifier.defaults();
  });
}

[[noreturn]] void raise_key_error(const std::string& key) {
  py::set_error(PyExc_KeyError, py::str(key));
  throw py::error_already_set();
}

/// What a dict has, through a plain one with the same content: the same for both classes.
template <class Map, class Class>
void def_dict_methods(Class& cls, py::dict (Map::*plain)() const) {
  const auto dict = [plain](const Map& self) { return (self.*plain)(); };
  cls.def("copy", dict, "A plain dict.")
      .def("__copy__", dict)
      .def("__deepcopy__", [dict](const Map& self, const py::dict&) { return dict(self); })
      .def("__reduce__",
           [dict](const Map& self) {
             return py::make_tuple(py::type::of(py::dict()), py::make_tuple(dict(self)));
           })
      .def("__repr__", [dict](const Map& self) { return py::repr(dict(self)); })
      .def("__eq__",
           [dict](const Map& self, const py::object& other) -> py::object {
             if (py::isinstance<Map>(other))
               return py::bool_(dict(self).equal(dict(other.cast<const Map&>())));
             if (py::isinstance<py::dict>(other)) return py::bool_(dict(self).equal(other));
             return py::reinterpret_borrow<py::object>(Py_NotImplemented);
           })
      .def("__or__", [dict](const Map& self,
                            const py::object& other) { return dict(self) | py::dict(other); })
      .def("__ror__", [dict](const Map& self, const py::object& other) {
        return py::dict(other) | dict(self);
      });
  cls.attr("__hash__") = py::none();
  py::module_::import("collections.abc").attr("MutableMapping").attr("register")(cls);
}

/// update(mapping_or_pairs, **more), as dict's.
py::dict merged(const py::object& other, const py::kwargs& more) {
  py::dict changes = other.is_none() ? py::dict() : py::dict(other);
  for (const auto& item : more) changes[item.first] = item.second;
  return changes;
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
  if (!sparsifier_) throw datasparse::StateError("the sparsifier of this mapping is gone");
  return *core_;
}

py::dict ConfigMap::to_dict() const { return to_python(read(core(), shows_, name_)); }

py::object ConfigMap::get(const std::string& key) const {
  const auto& sparsifier = core();
  if (shows_ == Shows::config) {
    // Giving the interpreter's lock away and taking it back costs more than the reading.
    if (const auto value = sparsifier.try_config_value(name_, key, place_))
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
    if (shows_ == Shows::config) {
      sparsifier.update_config(name_, values);
    } else if (shows_ == Shows::state) {
      ParamMap state = sparsifier.state(name_);
      state.update(values);
      sparsifier.replace_state(name_, state);
    } else {
      ParamMap defaults = sparsifier.defaults();
      defaults.update(values);
      sparsifier.replace_defaults(defaults);
    }
  });
}

void ConfigMap::erase(const std::string& key) {
  auto& sparsifier = core();
  const auto without_key = [&key](ParamMap map) {
    map.at(key);  // for its message
    map.erase(key);
    return map;
  };
  without_gil([&] {
    if (shows_ == Shows::config) {
      sparsifier.erase_config_key(name_, key);
    } else if (shows_ == Shows::state) {
      sparsifier.replace_state(name_, without_key(sparsifier.state(name_)));
    } else {
      sparsifier.replace_defaults(without_key(sparsifier.defaults()));
    }
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
    const auto name = item.first.cast<std::string>();
    maps.emplace_back(name, to_param_map(item.second, name));
  }
  without_gil([&] {
    if (shows_ == Shows::config) return sparsifier.replace_configs(maps);
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
  const auto& sparsifier = core(sparsifier_);
  const auto maps = without_gil(
      [&] { return shows_ == Shows::state ? sparsifier.states() : sparsifier.configs(); });
  py::dict result;
  for (const auto& [name, map] : maps) result[py::str(name)] = to_python(map);
  return result;
}

GroupItemsIterator GroupMap::iterate_items() const {
  return {sparsifier_, core(sparsifier_), shows_, names()};
}

std::optional<py::tuple> GroupItemsIterator::next() {
  if (place_ == names_.size()) return std::nullopt;
  if (!sparsifier_) throw datasparse::StateError("the sparsifier of this mapping is gone");
  const std::string& name = names_[place_];
  py::tuple item =
      py::make_tuple(py::str(name), ConfigMap(sparsifier_, *core_, shows_, name, place_));
  ++place_;  // once nothing can fail any more: next_item() tries again what did
  return item;
}

namespace {

// A scheduler in Python reads a value of every group in every step. Here are the two calls that it
// makes without pybind11's look-ups, which take longer than the reading. What fails has changed
// nothing, and is done again by the methods, which raise.

/// config[key].
PyObject* subscript(PyObject* self, PyObject* key) {
  try {
    if (PyUnicode_Check(key) && py::detail::is_holder_constructed(self)) {
      return held_by<ConfigMap>(self).get(py::handle(key).cast<std::string>()).release().ptr();
    }
  } catch (...) {
    PyErr_Clear();
  }
  return PyObject_CallMethod(self, "__getitem__", "(O)", key);
}

/// next(iterator).
PyObject* next_item(PyObject* self) {
  try {
    auto item = held_by<GroupItemsIterator>(self).next();
    return item ? item->release().ptr() : nullptr;  // which stands for StopIteration
  } catch (...) {
    PyErr_Clear();
  }
  return PyObject_CallMethod(self, "__next__", nullptr);
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
      .def("__contains__", [](const ConfigMap& self,
                              const py::object& key) { return self.to_dict().contains(key); })
      .def("__len__", [](const ConfigMap& self) { return self.to_dict().size(); })
      .def(
          "update",
          [](ConfigMap& self, const py::object& other, const py::kwargs& more) {
            self.update(merged(other, more));
          },
          py::arg("other") = py::none(), py::pos_only(),
          "Write several values as a unit: all of them, or none if the result is refused.")
      .def("__ior__",
           [](py::object self, const py::object& other) {
             self.cast<ConfigMap&>().update(py::dict(other));
             return self;
           })
      .def(
          "setdefault",
          [](ConfigMap& self, const py::str& key, const py::object& value) -> py::object {
            if (!self.to_dict().contains(key)) {
              py::dict change;
              change[key] = value;
              self.update(change);
            }
            return self.get(key);
          },
          py::arg("key"), py::arg("default") = py::none(),
          "The value of a key, written first if absent.")
      .def(
          "pop",
          [](ConfigMap& self, const Name& key, const py::args& otherwise) -> py::object {
            if (otherwise.size() > 1) throw py::type_error("pop() takes a key and one default");
            const py::dict now = self.to_dict();
            if (!now.contains(py::str(key))) {
              if (otherwise.size() == 1) return otherwise[0];
              raise_key_error(key);
            }
            self.erase(key);
            return now[py::str(static_cast<const std::string&>(key))];
          },
          py::arg("key"), "Remove a key and return its value.");
  config.def("__iter__", [](const ConfigMap& self) { return py::iter(py::list(self.to_dict())); })
      .def(
          "keys", [](const ConfigMap& self) { return self.to_dict().attr("keys")(); },
          "The keys, as they are now.")
      .def(
          "values", [](const ConfigMap& self) { return self.to_dict().attr("values")(); },
          "The values, as they are now.")
      .def(
          "items", [](const ConfigMap& self) { return self.to_dict().attr("items")(); },
          "The items, as they are now.")
      .def(
          "get",
          [](const ConfigMap& self, const py::object& key, const py::object& otherwise) {
            return self.to_dict().attr("get")(key, otherwise);
          },
          py::arg("key"), py::arg("default") = py::none(), "The value of a key, or the default.");
  def_dict_methods<ConfigMap>(config, &ConfigMap::to_dict);
  reinterpret_cast<PyHeapTypeObject*>(config.ptr())->as_mapping.mp_subscript = &subscript;

  py::class_<GroupMap> groups(
      module, "GroupMap",
      "The configs of all groups by name, as a live dict of live dicts. Groups come and\n"
      "go by add_data() and remove_data() only.",
      collected<GroupMap, ViewAccess<GroupMap>, Created::by_us>());
  const py::module_ abc = py::module_::import("collections.abc");
  const py::object keys_view = abc.attr("KeysView"), values_view = abc.attr("ValuesView");
  const py::object items_view = py::module_::import("datasparse._views").attr("GroupItems");
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
             return py::isinstance<py::str>(name) && self.contains(name.cast<std::string>());
           })
      .def("__len__", [](const GroupMap& self) { return self.names().size(); })
      .def("__iter__",
           [](const GroupMap& self) {
             py::list names;
             for (const auto& name : self.names()) names.append(py::str(name));
             return py::iter(names);
           })
      .def(
          "keys", [keys_view](const py::object& self) { return keys_view(self); },
          "A view of the names.")
      .def(
          "values", [values_view](const py::object& self) { return values_view(self); },
          "A view of the configs.")
      .def(
          "items", [items_view](const py::object& self) { return items_view(self); },
          "A view of the pairs of a name and its config.")
      .def("_iterate_items", &GroupMap::iterate_items)
      .def(
          "get",
          [](const GroupMap& self, const py::object& name, const py::object& otherwise) {
            if (!py::isinstance<py::str>(name)) return otherwise;
            const auto text = name.cast<std::string>();
            return self.contains(text) ? py::cast(self.get(text)) : otherwise;
          },
          py::arg("name"), py::arg("default") = py::none(),
          "The config of a group, or the default.")
      .def(
          "update",
          [](GroupMap& self, const py::object& other, const py::kwargs& more) {
            self.replace(merged(other, more));
          },
          py::arg("other") = py::none(), py::pos_only(),
          "Replace the configs of several groups, all or none.");
  def_dict_methods<GroupMap>(groups, &GroupMap::to_dicts);

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
