/// Copies, pickles, and what state dicts hold of Python subclasses.
#pragma once

#include <pybind11/pybind11.h>

/// What __reduce__ returns: an empty object of self's class, then __setstate__(state).
pybind11::tuple reduce(pybind11::handle self, const pybind11::object& state);

/// What __reduce__ returns for an object without a state: self's class, called with `arguments`.
pybind11::tuple recreate(pybind11::handle self, const pybind11::dict& arguments);

/// The attributes that a Python subclass has given to self; empty for our own classes.
pybind11::dict attributes_of(pybind11::handle self);
/// ValueError where there are some and self's class is not a Python subclass.
void require_room_for(pybind11::handle self, const pybind11::dict& attributes);
void set_attributes(pybind11::handle self, const pybind11::dict& attributes);

/// A copy of attributes_of(self) for a state dict: None, bool, int, float, str, bytes, and tuples,
/// lists and dicts of these. TypeError, naming the attribute, for any other. Names that begin with
/// '_' are left out.
pybind11::dict plain_attributes_of(pybind11::handle self);
