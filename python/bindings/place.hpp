/// A weight's place in a torch model: see datasparse/torch/places.py, which this only makes
/// quicker.
#pragma once

#include <pybind11/pybind11.h>

/// Finds the tensor that an object with `__datasparse_tensor__` and `__datasparse_scores__` stands
/// for. It may have a `trail`: a weak reference to a model, and for each owner of the parameter a
/// tuple of its path and attribute. Then the model is asked first: as long as all owners hold the
/// parameter of the last time, at first the object's `known`, that is the tensor. Of a module at
/// depth 2 it takes a quarter of a microsecond, and a call four times as long.
class Place {
 public:
  static bool is_one(pybind11::handle object) { return pybind11::hasattr(object, tensor_method); }

  /// The parameter of the last time, if it is still there; else null. `place` is the same object at
  /// each call.
  pybind11::object where_it_was(const pybind11::object& place);
  /// Asks the object. Remembers the tensor for where_it_was().
  pybind11::object ask(const pybind11::object& place, const char* method);

  /// The tensor, or one of those that it is made of.
  pybind11::object one_of(const pybind11::object& place) {
    if (pybind11::object same = where_it_was(place)) return same;
    const bool has_parts = pybind11::hasattr(place, parts_method);
    return place.attr(has_parts ? parts_method : tensor_method)();
  }

  /// Asks whether the tensor may be zeroed where a mask is 0; throws what the object raises.
  static void allow_zeros(const pybind11::object& place, const pybind11::object& mask) {
    if (pybind11::hasattr(place, "__datasparse_allow_zeros__")) {
      place.attr("__datasparse_allow_zeros__")(mask);
    }
  }

  static constexpr const char* tensor_method = "__datasparse_tensor__";
  static constexpr const char* scores_method = "__datasparse_scores__";
  static constexpr const char* parts_method = "__datasparse_part__";

 private:
  PyObject* known_ = nullptr;  // not owned: compared with what the model holds, and nothing else
  pybind11::object trail_;     // a tuple of a weak reference and of strings
};
