#include "dlpack.hpp"
#include "refusals.hpp"
#include "source.hpp"

namespace py = pybind11;

namespace {

/// Anything with `__dlpack__`, in CPU memory.
class DLPackSource final : public PySource {
 public:
  using PySource::PySource;

  datasparse::ArrayView pin() override { return loans_.take(borrow(), what_); }
  void unpin() noexcept override { loans_.give_one_back(); }

 protected:
  py::object copy() const override {
    const auto numpy = py::module_::import("numpy");
    // NumPy's from_dlpack() knows no bfloat16, for which JAX has its own dtype.
    if (py::hasattr(data(), "__array__")) return numpy.attr("array")(data());
    return numpy.attr("from_dlpack")(data()).attr("copy")();
  }

 private:
  dlpack::Loan borrow() const {
    const py::object& array = data();
    // Asked first: for memory on a device, __dlpack__() may want a stream, or fail in its own way.
    try {
      const auto device = py::tuple(array.attr("__dlpack_device__")());
      dlpack::require_cpu(device[0].cast<std::int32_t>(), what_);
      return dlpack::Loan(array, what_);
    } catch (py::error_already_set&) {
      refuse_without_memory(array, what_);  // where it can say more, it throws its own error
      throw;
    }
  }

  dlpack::Loans loans_;
};

}  // namespace

PySource* new_dlpack_source(const py::object& data, const std::string& what, SourceOwner* owner) {
  refuse_known_class(data, what);
  return py::hasattr(data, "__dlpack__") ? new DLPackSource(data, what, owner) : nullptr;
}
