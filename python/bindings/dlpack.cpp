#include "dlpack.hpp"

#include <utility>

#include "datasparse/error.hpp"
#include "refusals.hpp"

namespace py = pybind11;

namespace dlpack {
namespace {

constexpr const char* versioned_name = "dltensor_versioned";
constexpr const char* plain_name = "dltensor";

py::object capsule_of(py::handle object) {
  try {
    return object.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0));
  } catch (py::error_already_set& error) {
    // The protocol before version 1 knows no such argument.
    if (!error.matches(PyExc_TypeError)) throw;
    return object.attr("__dlpack__")();
  }
}

}  // namespace

void require_cpu(std::int32_t device_type, const std::string& what) {
  if (device_type == cpu) return;
  throw datasparse::TypeError(what +
                              " must lie in CPU memory, got an array on DLPack device type " +
                              std::to_string(device_type) + "; copy it to the CPU first");
}

const ExchangeTable* exchange_table_of(py::handle type) {
  const py::object capsule = py::getattr(type, "__dlpack_c_exchange_api__", py::none());
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return nullptr;
  const auto* table =
      static_cast<const ExchangeTable*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  while (table != nullptr && table->version.major > 1) table = table->previous;
  return table != nullptr && table->version.major == 1 ? table : nullptr;
}

Loan::Loan(py::handle object, const std::string& what, const ExchangeTable* table) {
  if (table != nullptr) {
    if (table->from_object(object.ptr(), &versioned_) != 0) throw py::error_already_set();
    return;
  }
  const py::object capsule = capsule_of(object);
  if (PyCapsule_IsValid(capsule.ptr(), versioned_name)) {
    auto* lent =
        static_cast<ManagedTensorVersioned*>(PyCapsule_GetPointer(capsule.ptr(), versioned_name));
    if (lent->version.major != 1) {
      throw datasparse::TypeError(what + " must speak version 1 of DLPack, got version " +
                                  std::to_string(lent->version.major));
    }
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    versioned_ = lent;
  } else if (PyCapsule_IsValid(capsule.ptr(), plain_name)) {
    plain_ = static_cast<ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), plain_name));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  } else {
    throw datasparse::TypeError("__dlpack__() of the " + what + " returned " +
                                std::string(py::repr(capsule)) + ", expected a DLPack capsule");
  }
}

Loan::Loan(Loan&& other) noexcept
    : versioned_(std::exchange(other.versioned_, nullptr)),
      plain_(std::exchange(other.plain_, nullptr)) {}

Loan::~Loan() {
  if (versioned_ != nullptr && versioned_->deleter != nullptr) versioned_->deleter(versioned_);
  if (plain_ != nullptr && plain_->deleter != nullptr) plain_->deleter(plain_);
}

std::string name_of(const DataType& dtype) {
  static constexpr const char* kinds[] = {"int",    "uint",    "float", "opaque",
                                          "bfloat", "complex", "bool"};
  constexpr std::size_t known = sizeof(kinds) / sizeof(*kinds);
  if (dtype.code >= known) return "DLPack type " + std::to_string(dtype.code);
  return dtype.code == 6 ? "bool" : kinds[dtype.code] + std::to_string(dtype.bits);
}

datasparse::ArrayView view_of(const Tensor& tensor, bool read_only, const std::string& what) {
  using datasparse::DType;
  require_cpu(tensor.device.type, what);
  const auto is = [&tensor](std::uint8_t code, std::uint8_t bits) {
    return tensor.dtype.code == code && tensor.dtype.bits == bits && tensor.dtype.lanes == 1;
  };
  DType dtype{};
  if (is(float_code, 32)) {
    dtype = DType::float32;
  } else if (is(float_code, 64)) {
    dtype = DType::float64;
  } else if (is(float_code, 16)) {
    dtype = DType::float16;
  } else if (is(bfloat_code, 16)) {
    dtype = DType::bfloat16;
  } else if (tensor.dtype.code == complex_code) {
    refuse_complex(what, name_of(tensor.dtype), "the absolute values");
  } else {
    refuse_dtype(what, name_of(tensor.dtype), "convert it first");
  }
  const auto item = static_cast<std::int64_t>(datasparse::item_size(dtype));
  datasparse::Axes shape, strides;
  for (int axis = 0; axis < tensor.ndim; ++axis) shape.push_back(tensor.shape[axis]);
  auto* const data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  if (tensor.strides == nullptr) return {data, dtype, shape, read_only};
  for (int axis = 0; axis < tensor.ndim; ++axis) strides.push_back(tensor.strides[axis] * item);
  return {data, dtype, shape, strides, read_only};
}

}  // namespace dlpack
