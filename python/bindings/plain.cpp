#include "plain.hpp"

#include "datasparse/error.hpp"
#include "self.hpp"

namespace py = pybind11;
using datasparse::PlainData;

namespace {

/// Python's str may hold halves of surrogate pairs, which UTF-8 has no place for.
constexpr const char* unicode_errors = "surrogatepass";

py::object checked(PyObject* created) {
  if (created == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(created);
}

std::string to_utf8(py::handle text) {
  return checked(PyUnicode_AsEncodedString(text.ptr(), "utf-8", unicode_errors))
      .cast<std::string>();
}

PlainData to_integer(py::handle integer) {
  int overflow = 0;
  const std::int64_t value = PyLong_AsLongLongAndOverflow(integer.ptr(), &overflow);
  if (overflow == 0) return value;
  return PlainData::BigInt{checked(PyNumber_ToBase(integer.ptr(), 16)).cast<std::string>()};
}

PlainData converted(py::handle value, const std::string& path, int depth) {
  PyObject* const object = value.ptr();
  if (object == Py_None) return {};
  if (PyBool_Check(object)) return object == Py_True;
  if (PyLong_CheckExact(object)) return to_integer(value);
  if (PyFloat_CheckExact(object)) return PyFloat_AS_DOUBLE(object);
  if (PyUnicode_CheckExact(object)) return to_utf8(value);
  if (PyBytes_CheckExact(object)) return PlainData::Bytes{value.cast<std::string>()};

  if (depth == PlainData::max_depth) {
    throw datasparse::ValueError(path + " cannot be saved: it is nested more than " +
                                 std::to_string(PlainData::max_depth) + " deep");
  }
  if (PyTuple_CheckExact(object) || PyList_CheckExact(object)) {
    std::vector<PlainData> items;
    for (const auto item : value) {
      const std::string place = path + "[" + std::to_string(items.size()) + "]";
      items.push_back(converted(item, place, depth + 1));
    }
    if (PyList_CheckExact(object)) return PlainData::List{std::move(items)};
    return PlainData::Tuple{std::move(items)};
  }
  if (PyDict_CheckExact(object)) {
    PlainData::Dict dict;
    for (const auto& [key, held] : py::reinterpret_borrow<py::dict>(value)) {
      PlainData plain_key = converted(key, "a key of " + path, depth + 1);
      const std::string place = path + "[" + std::string(py::repr(key)) + "]";
      dict.items.emplace_back(std::move(plain_key), converted(held, place, depth + 1));
    }
    return dict;
  }
  throw datasparse::TypeError(
      path +
      " cannot be saved: it must be None, bool, int, float, str, bytes, or a tuple, list or "
      "dict of these, got " +
      class_name(value) + "; an attribute whose name begins with '_' is left out");
}

py::object to_held(std::monostate) { return py::none(); }
py::object to_held(bool value) { return py::bool_(value); }
py::object to_held(std::int64_t value) { return py::int_(value); }
py::object to_held(double value) { return py::float_(value); }
py::object to_held(const std::string& text) {
  const auto decoded = py::reinterpret_steal<py::object>(
      PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), unicode_errors));
  if (decoded) return decoded;
  PyErr_Clear();
  throw datasparse::ValueError("a str must be UTF-8");
}
py::object to_held(const PlainData::Bytes& bytes) { return py::bytes(bytes.value); }
py::object to_held(const PlainData::BigInt& integer) {
  return checked(PyLong_FromString(integer.hex.c_str(), nullptr, 16));
}
py::list to_list(const std::vector<PlainData>& items) {
  py::list result;
  for (const auto& item : items) result.append(to_python(item));
  return result;
}
py::object to_held(const PlainData::List& list) { return to_list(list.items); }
py::object to_held(const PlainData::Tuple& tuple) { return py::tuple(to_list(tuple.items)); }
py::object to_held(const PlainData::Dict& dict) {
  py::dict result;
  for (const auto& [key, value] : dict.items) {
    const py::object python_key = to_python(key);
    if (PyObject_Hash(python_key.ptr()) == -1) {
      PyErr_Clear();
      throw datasparse::ValueError("a dict cannot have the key " +
                                   std::string(py::repr(python_key)));
    }
    result[python_key] = to_python(value);
  }
  return result;
}

}  // namespace

PlainData to_plain(py::handle value, const std::string& path) { return converted(value, path, 0); }

py::object to_python(const PlainData& value) {
  return std::visit([](const auto& held) { return to_held(held); }, value.variant());
}
