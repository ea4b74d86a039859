#include "datasparse/error.hpp"

#include <pybind11/pybind11.h>

#include <cerrno>

namespace py = pybind11;

namespace {

/// class UnknownNameError(KeyError, ValueError): whoever catches either catches it.
py::object make_unknown_name_error(const py::module_& module) {
  py::dict body;
  body["__module__"] = "datasparse";
  body["__doc__"] =
      "No data, or no config key, has that name; the message holds the nearest known one.";
  // KeyError would show its message in quotes.
  body["__str__"] = py::handle(PyExc_Exception).attr("__str__");
  const auto bases = py::make_tuple(py::handle(PyExc_KeyError), py::handle(PyExc_ValueError));
  py::object error =
      py::handle(reinterpret_cast<PyObject*>(&PyType_Type))("UnknownNameError", bases, body);
  module.attr("UnknownNameError") = error;
  return error;
}

/// OSError, or the subclass that its number stands for: FileNotFoundError, PermissionError ...
void set_os_error(const datasparse::FileError& error) {
  const py::object path =
      py::reinterpret_steal<py::object>(PyUnicode_DecodeFSDefault(error.path().c_str()));
  errno = error.code();
  PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path.ptr());
}

}  // namespace

void register_errors(py::module_& module) {
  static PyObject* const unknown_name = make_unknown_name_error(module).release().ptr();
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const datasparse::UnknownNameError& error) {
      py::set_error(unknown_name, error.what());
    } catch (const datasparse::ValueError& error) {
      py::set_error(PyExc_ValueError, error.what());
    } catch (const datasparse::TypeError& error) {
      py::set_error(PyExc_TypeError, error.what());
    } catch (const datasparse::StateError& error) {
      py::set_error(PyExc_RuntimeError, error.what());
    } catch (const datasparse::FileError& error) {
      set_os_error(error);
    }
  });
}
