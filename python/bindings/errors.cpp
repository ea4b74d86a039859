#include "datasparse/error.hpp"

#include "register.hpp"

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
    }
  });
}
