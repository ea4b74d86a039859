/// `self` of a bound method.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "datasparse/error.hpp"

inline std::string class_name(pybind11::handle object) {
  return pybind11::str(pybind11::type::handle_of(object).attr("__name__"));
}

/// Raises NotImplementedError.
[[noreturn]] inline void must_override(pybind11::handle object, const char* method) {
  const std::string message = class_name(object) + " must override " + method;
  pybind11::set_error(PyExc_NotImplementedError, message.c_str());
  throw pybind11::error_already_set();
}

/// A T whose __init__ has run. Without this check a method called before super().__init__(), or on
/// what Cls.__new__(Cls) returns, would use memory that holds no object.
template <class T>
class Self {
 public:
  Self() = default;
  explicit Self(pybind11::handle object) : handle_(object) {
    if (!pybind11::detail::is_holder_constructed(object.ptr())) {
      throw datasparse::TypeError("super().__init__() of this " + class_name(object) +
                                  " has not been called yet");
    }
    object_ = object.cast<T*>();
  }

  T* operator->() const noexcept { return object_; }
  T& operator*() const noexcept { return *object_; }
  pybind11::handle handle() const noexcept { return handle_; }

 private:
  T* object_ = nullptr;
  pybind11::handle handle_;
};

template <class T>
struct pybind11::detail::type_caster<Self<T>> {
  PYBIND11_TYPE_CASTER(Self<T>, make_caster<T>::name);
  bool load(handle source, bool) {
    // What isinstance() does, without its look for an __instancecheck__.
    static auto* const type = reinterpret_cast<PyTypeObject*>(type::handle_of<T>().ptr());
    if (!PyObject_TypeCheck(source.ptr(), type)) return false;
    value = Self<T>(source);
    return true;
  }
};
