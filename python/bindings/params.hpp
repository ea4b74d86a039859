/// Config values between Python and the core.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "datasparse/param.hpp"

/// The text of a str. UnicodeEncodeError, which is a ValueError, for half a surrogate pair: UTF-8
/// has no place for it.
std::string to_text(pybind11::handle text);

/// A str argument; pybind11's std::string takes bytes too.
struct Name : std::string {};

template <>
struct pybind11::detail::type_caster<Name> {
  PYBIND11_TYPE_CASTER(Name, const_name("str"));
  bool load(handle source, bool) {
    if (!PyUnicode_Check(source.ptr())) return false;
    value.assign(to_text(source));
    return true;
  }
};

/// None, bool, int, float, str, a tuple of numbers, or a NumPy scalar; anything else is a TypeError
/// that begins with label(key, group).
datasparse::ParamValue to_param(pybind11::handle value, const std::string& key,
                                const std::string& group);
pybind11::object to_python(const datasparse::ParamValue& value);

/// Any mapping with string keys. `group` is for messages.
datasparse::ParamMap to_param_map(pybind11::handle mapping, const std::string& group);
pybind11::dict to_python(const datasparse::ParamMap& map);

/// The mapping as a dict with string keys; TypeError, beginning with `what`, for anything else.
pybind11::dict to_dict(pybind11::handle mapping, const std::string& what);
