#include "copying.hpp"

#include <memory>
#include <string>

#include "datasparse/error.hpp"
#include "gil.hpp"
#include "plain.hpp"
#include "self.hpp"

namespace py = pybind11;

namespace {

/// Attributes on their way into an object. Made, and destroyed, outside the sparsifier's lock: what
/// is replaced may run anybody's code when it goes.
struct NewAttributes {
  py::object target;  // the object's __dict__
  py::object before, after;

  NewAttributes(const py::object& self, const py::dict& attributes)
      : target(self.attr("__dict__")), before(target.attr("copy")()), after(target.attr("copy")()) {
    after.attr("update")(attributes);
  }
  NewAttributes(const NewAttributes&) = delete;
  NewAttributes& operator=(const NewAttributes&) = delete;
  ~NewAttributes() {
    const AcquiredGil gil;
    target = before = after = py::object();
  }

  void put_into_place() const {
    const AcquiredGil gil;
    if (PyDict_Update(target.ptr(), after.ptr()) != 0) PyErr_WriteUnraisable(target.ptr());
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
  return py::dict(py::getattr(self, "__dict__", py::dict()));
}

void set_attributes(py::handle self, const py::dict& attributes) {
  if (attributes.empty()) return;
  self.attr("__dict__").attr("update")(attributes);
}

void require_room_for(py::handle self, const py::dict& attributes) {
  if (attributes.empty() || py::hasattr(self, "__dict__")) return;
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
  if (!py::hasattr(self, "__dict__")) refuse_attributes(saved, "the " + class_name(self));
  if (saved.empty()) return [] {};
  const auto attributes = std::make_shared<NewAttributes>(self, to_python(saved));
  return [attributes] { attributes->put_into_place(); };
}
