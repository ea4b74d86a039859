/// Copies, pickles, and what state dicts hold of Python subclasses.
#pragma once

#include <pybind11/pybind11.h>

#include <functional>

#include "datasparse/plain_data.hpp"
#include "gil.hpp"

/// What __reduce__ returns: an empty object of self's class, then __setstate__(state).
pybind11::tuple reduce(pybind11::handle self, const pybind11::object& state);

/// What __reduce__ returns for an object without a state: self's class, called with `arguments`.
pybind11::tuple recreate(pybind11::handle self, const pybind11::dict& arguments);

/// The attributes that a Python subclass has given to self; empty for our own classes.
pybind11::dict attributes_of(pybind11::handle self);
/// ValueError where there are some and self's class is not a Python subclass.
void require_room_for(pybind11::handle self, const pybind11::dict& attributes);
void set_attributes(pybind11::handle self, const pybind11::dict& attributes);

/// A copy of attributes_of(self) for a state dict or a checkpoint; TypeError, naming the attribute,
/// for one that is not plain data. Names that begin with '_' are left out.
datasparse::Attributes plain_attributes_of(pybind11::handle self);
pybind11::dict to_python(const datasparse::Attributes& attributes);

/// prepare_attributes() of an object of Python: what puts the attributes into place takes the
/// interpreter's lock. ValueError where there are some and self's class is not a Python subclass.
std::function<void()> prepared_attributes(const pybind11::object& self,
                                          const datasparse::Attributes& saved);

/// A sparsifier or scheduler whose attributes are those of its Python object.
template <class Base>
class WithPythonAttributes : public Base {
 public:
  using Base::Base;
  WithPythonAttributes() = default;

  datasparse::Attributes attributes() const override {
    const AcquiredGil gil;
    return plain_attributes_of(pybind11::cast(static_cast<const Base*>(this)));
  }
  std::function<void()> prepare_attributes(const datasparse::Attributes& saved) override {
    const AcquiredGil gil;
    return prepared_attributes(pybind11::cast(static_cast<const Base*>(this)), saved);
  }
};
