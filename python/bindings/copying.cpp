#include "copying.hpp"

#include <memory>
#include <string>

#include "datasparse/error.hpp"
#include "gil.hpp"
#include "plain.hpp"
#include "self.hpp"

namespace py = pybind11;

namespace {

/// What an object has in slots, in the place of its __dict__: names that are declared by __slots__.
py::list slots_of(py::handle self) {
  const py::handle type = py::type::handle_of(self);
  if (!py::hasattr(type, "__slots__")) return py::list();
  return py::module_::import("copyreg").attr("_slotnames")(type);
}

py::dict dict_of(py::handle self) { return py::getattr(self, "__dict__", py::dict()); }

/// Attributes on their way into an object. Made, and destroyed, outside the sparsifier's lock: what
/// is replaced may run anybody's code when it goes.
struct NewAttributes {
  py::object target;  // the object
  py::dict in_dict, in_slots;
  py::dict before;  // what is replaced

  NewAttributes(py::handle self, const py::dict& attributes)
      : target(py::reinterpret_borrow<py::object>(self)), before(attributes_of(self)) {
    const py::list slots = slots_of(self);
    for (const auto& [name, value] : attributes) {
      (slots.contains(name) ? in_slots : in_dict)[name] = value;
    }
  }
  NewAttributes(const NewAttributes&) = delete;
  NewAttributes& operator=(const NewAttributes&) = delete;
  ~NewAttributes() {
    const AcquiredGil gil;
    target = py::object();
    in_dict = in_slots = before = py::reinterpret_steal<py::dict>(py::handle());
  }

  bool put() const {
    const AcquiredGil gil;
    for (const auto& [name, value] : in_slots) {
      // Past a __setattr__ of the class, which may do anything.
      if (PyObject_GenericSetAttr(target.ptr(), name.ptr(), value.ptr()) != 0) return false;
    }
    return in_dict.empty() || PyDict_Update(dict_of(target).ptr(), in_dict.ptr()) == 0;
  }
  void put_into_place() const {
    const AcquiredGil gil;
    if (!put()) PyErr_WriteUnraisable(target.ptr());
  }
};

}  // namespace

py::tuple reduce(py::handle self, const py::object& state) {
  const py::object empty = py::module_::import("datasparse._restore").attr("empty");
  return py::make_tuple(empty, py::make_tuple(py::type::handle_of(self)), state);
}

py::tuple recreate(py::handle self, const py::dict& arguments) {
  const py::object recreated = py::module_::import("datasparse._restore").attr("recreated");
  return py::make_tuple(recreated, py::make_tuple(py::type::handle_of(self), arguments));
}

py::dict attributes_of(py::handle self) {
  const py::dict attributes = dict_of(self).attr("copy")();
  for (const auto& name : slots_of(self)) {
    if (py::hasattr(self, name)) attributes[name] = self.attr(name);
  }
  return attributes;
}

void set_attributes(py::handle self, const py::dict& attributes) {
  if (attributes.empty()) return;
  if (!NewAttributes(self, attributes).put()) throw py::error_already_set();
}

void require_room_for(py::handle self, const py::dict& attributes) {
  if (py::hasattr(self, "__dict__") || NewAttributes(self, attributes).in_dict.empty()) return;
  throw datasparse::ValueError("state_dict['attributes'] must be empty for a " + class_name(self) +
                               ", which has none of its own, got " +
                               std::string(py::repr(attributes)));
}

datasparse::Attributes plain_attributes_of(py::handle self) {
  datasparse::Attributes plain;
  for (const auto& item : attributes_of(self)) {
    const std::string name = py::str(item.first);
    if (name.rfind('_', 0) == 0) continue;
    plain.emplace_back(name, to_plain(item.second, class_name(self) + "." + name));
  }
  return plain;
}

py::dict to_python(const datasparse::Attributes& attributes) {
  py::dict result;
  for (const auto& [name, value] : attributes) result[py::str(name)] = to_python(value);
  return result;
}

std::function<void()> prepared_attributes(const py::object& self,
                                          const datasparse::Attributes& saved) {
  if (saved.empty()) return [] {};
  const auto attributes = std::make_shared<NewAttributes>(self, to_python(saved));
  if (!py::hasattr(self, "__dict__") && !attributes->in_dict.empty()) {
    refuse_attributes(saved, "the " + class_name(self));
  }
  return [attributes] { attributes->put_into_place(); };
}
