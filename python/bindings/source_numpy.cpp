#include <pybind11/numpy.h>

#include <cstring>
#include <utility>

#include "datasparse/error.hpp"
#include "refusals.hpp"
#include "source.hpp"

namespace py = pybind11;
using datasparse::ArrayView;
using datasparse::DType;

namespace {

DType dtype_of(const py::dtype& dtype, const std::string& what) {
  // The ones that nearly all arrays have are known by their addresses: scores come anew each step.
  static PyObject* const float32 = py::dtype::of<float>().release().ptr();
  static PyObject* const float64 = py::dtype::of<double>().release().ptr();
  if (dtype.ptr() == float32) return DType::float32;
  if (dtype.ptr() == float64) return DType::float64;
  const std::string got = py::str(static_cast<const py::object&>(dtype));
  if (dtype.kind() == 'f' && dtype.byteorder() != '=' && dtype.byteorder() != '|') {
    const bool foreign = !py::cast<bool>(dtype.attr("isnative"));
    if (foreign) {
      throw datasparse::TypeError(what + " must have this machine's byte order, got " + got +
                                  "; convert it with .astype(data.dtype.newbyteorder('='))");
    }
  }
  if (dtype.kind() == 'f' && dtype.itemsize() == 8) return DType::float64;
  if (dtype.kind() == 'f' && dtype.itemsize() == 4) return DType::float32;
  if (dtype.kind() == 'f' && dtype.itemsize() == 2) return DType::float16;
  if (got == "bfloat16") return DType::bfloat16;               // of ml_dtypes
  if (got == "[('bfloat16', '<u2')]") return DType::bfloat16;  // without it: `BFLOAT16` in Python
  if (dtype.kind() == 'c') refuse_complex(what, got, "their np.abs()");
  const bool is_number = std::strchr("biufO", dtype.kind()) != nullptr;
  refuse_dtype(what, got, is_number ? "convert it with .astype(np.float32)" : "");
}

class NumpySource final : public PySource {
 public:
  using PySource::PySource;

  ArrayView pin() override {
    const auto array = py::reinterpret_borrow<py::array>(data());
    // Asking NumPy's dtype for its kind takes longer than all else: done once per dtype object.
    py::dtype dtype = array.dtype();
    if (!dtype.is(known_dtype_)) {
      kind_ = dtype_of(dtype, what_);
      known_dtype_ = std::move(dtype);
    }
    datasparse::Axes shape, strides;
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
      shape.push_back(array.shape(axis));
      strides.push_back(array.strides(axis));
    }
    return {const_cast<void*>(array.data()), kind_, shape, strides, !array.writeable()};
  }
  void unpin() noexcept override {}

 protected:
  py::object copy() const override { return data().attr("copy")(); }

 private:
  py::object known_dtype_;
  DType kind_ = DType::float32;
};

}  // namespace

PySource* new_numpy_source(const py::object& data, const std::string& what, SourceOwner* owner) {
  if (!py::isinstance<py::array>(data)) return nullptr;
  static const PyTypeObject* const plain = Py_TYPE(py::array(py::dtype::of<float>(), 0).ptr());
  if (Py_TYPE(data.ptr()) != plain) refuse_known_class(data, what);
  return new NumpySource(data, what, owner);
}
