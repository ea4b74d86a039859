/// DLPack, the protocol by which array libraries share memory:
/// https://dmlc.github.io/dlpack/latest/
///
/// The structures of version 1 are declared here: they are small, and fixed by the protocol's ABI.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "datasparse/array_view.hpp"

namespace dlpack {

struct Version {
  std::uint32_t major, minor;
};

struct Device {
  std::int32_t type, id;
};
constexpr std::int32_t cpu = 1;

struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
constexpr std::uint8_t float_code = 2;
constexpr std::uint8_t bfloat_code = 4;
constexpr std::uint8_t complex_code = 5;

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null for C order
  std::uint64_t byte_offset;
};

struct ManagedTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor*);
};

struct ManagedTensorVersioned {
  Version version;
  void* context;
  void (*deleter)(ManagedTensorVersioned*);
  std::uint64_t flags;
  Tensor tensor;
};
constexpr std::uint64_t read_only_flag = 1;
constexpr std::uint64_t copied_flag = 2;

/// The beginning of the table behind `__dlpack_c_exchange_api__`: a tensor in one C call, where the
/// Python protocol takes microseconds.
struct ExchangeTable {
  Version version;
  ExchangeTable* previous;
  void* allocate;
  int (*from_object)(void* object, ManagedTensorVersioned** out);
};

static_assert(sizeof(Tensor) == 48 && offsetof(Tensor, shape) == 24);
static_assert(offsetof(ManagedTensor, deleter) == 56);
static_assert(offsetof(ManagedTensorVersioned, tensor) == 32);
static_assert(offsetof(ExchangeTable, from_object) == 24);

/// The table of a type, or nullptr.
const ExchangeTable* exchange_table_of(pybind11::handle type);

/// A tensor lent by another library, for as long as this lives.
class Loan {
 public:
  /// Takes a loan from an object with `__dlpack__`, which messages call `what`. Throws what the
  /// object throws.
  Loan(pybind11::handle object, const std::string& what)
      : Loan(object, what, exchange_table_of(pybind11::type::handle_of(object))) {}
  /// The same, where the table of its type is known.
  Loan(pybind11::handle object, const std::string& what, const ExchangeTable* table);
  Loan(Loan&& other) noexcept;
  Loan& operator=(Loan&&) = delete;
  ~Loan();

  const Tensor& tensor() const noexcept {
    return versioned_ != nullptr ? versioned_->tensor : plain_->tensor;
  }
  /// Whether the lender forbids writing. A lender of the unversioned protocol cannot say, and
  /// counts as one that does.
  bool read_only() const noexcept {
    return versioned_ == nullptr || (versioned_->flags & (read_only_flag | copied_flag)) != 0;
  }

 private:
  ManagedTensorVersioned* versioned_ = nullptr;
  ManagedTensor* plain_ = nullptr;
};

/// TypeError, naming `what`, for any device but the CPU.
void require_cpu(std::int32_t device_type, const std::string& what);

/// "int32", "complex64": as NumPy would call it.
std::string name_of(const DataType& dtype);

/// TypeError, naming `what`, unless the tensor lies in CPU memory and has a dtype that we know.
datasparse::ArrayView view_of(const Tensor& tensor, bool read_only, const std::string& what);

/// The loans of a source, which may be pinned several times.
class Loans {
 public:
  /// view_of() what is lent.
  datasparse::ArrayView take(Loan loan, const std::string& what) {
    const auto view = view_of(loan.tensor(), loan.read_only(), what);
    loans_.push_back(std::move(loan));
    return view;
  }
  void give_one_back() noexcept { loans_.pop_back(); }

 private:
  std::vector<Loan> loans_;
};

}  // namespace dlpack
