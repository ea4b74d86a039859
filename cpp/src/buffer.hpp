/// Scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

namespace datasparse {

/// An array, aligned to a cache line, that grows and never shrinks, and keeps no values when it
/// grows. Not initialised: every item is written before it is read.
template <class T>
class Buffer {
 public:
  /// Room for n items. bad_alloc leaves it empty.
  void require(std::int64_t n) {
    if (n <= size_) return;
    size_ = 0;
    data_.reset();
    data_.reset(static_cast<T*>(
        ::operator new(static_cast<std::size_t>(n) * sizeof(T), std::align_val_t{alignment})));
    size_ = n;
  }
  T* get() const noexcept { return data_.get(); }
  T& operator[](std::int64_t i) const noexcept { return data_[static_cast<std::size_t>(i)]; }
  std::int64_t bytes() const noexcept { return size_ * static_cast<std::int64_t>(sizeof(T)); }

 private:
  static_assert(std::is_trivial_v<T>);
  static constexpr std::size_t alignment = 64;  // a cache line
  struct Free {
    void operator()(T* data) const noexcept {
      ::operator delete(data, std::align_val_t{alignment});
    }
  };

  std::unique_ptr<T[], Free> data_;
  std::int64_t size_ = 0;
};

}  // namespace datasparse
