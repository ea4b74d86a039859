/// Plain data of any depth between Python and the core.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "datasparse/plain_data.hpp"

/// None, bool, int, float, str, bytes, and tuples, lists and dicts of these. TypeError, beginning
/// with `path`, for anything else, a subclass of these among it; ValueError where it is nested
/// deeper than PlainData::max_depth, as what contains itself is.
datasparse::PlainData to_plain(pybind11::handle value, const std::string& path);
/// ValueError for what no Python object is: a dict with a list as a key.
pybind11::object to_python(const datasparse::PlainData& value);
