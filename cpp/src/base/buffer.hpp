/// Scratch memory.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

namespace datasparse {

constexpr std::align_val_t scratch_alignment{64};
/// From here on, scratch memory is mapped: that of the heap may have been marked for huge pages by
/// who had it before, as NumPy marks its arrays, and then touching a byte takes 2 MiB.
constexpr std::size_t mapped_from = std::size_t{1} << 18;

/// And from here on, it lies in huge pages: what is so large is written whole, or from its
/// beginning on, and touching small pages would take as long as what is done with them.
constexpr std::size_t huge_from = std::size_t{1} << 24;

/// Asks for huge pages. It is a wish: not every system has them.
inline void wish_for_huge_pages(void* memory, std::size_t bytes) noexcept {
#if defined(MADV_HUGEPAGE)
  ::madvise(memory, bytes, MADV_HUGEPAGE);
#else
  static_cast<void>(memory);
  static_cast<void>(bytes);
#endif
}

/// Memory as it comes, aligned to a cache line, or bad_alloc.
inline void* allocate_scratch(std::size_t bytes) {
  if (bytes < mapped_from) return ::operator new(bytes, scratch_alignment);
  void* const pages =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  if (bytes >= huge_from) wish_for_huge_pages(pages, bytes);
  return pages;
}
inline void free_scratch(void* memory, std::size_t bytes) noexcept {
  if (bytes < mapped_from) {
    ::operator delete(memory, scratch_alignment);
  } else if (memory != nullptr) {
    ::munmap(memory, bytes);
  }
}

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
    const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
    data_ = {static_cast<T*>(allocate_scratch(bytes)), Free{bytes}};
    size_ = n;
  }
  T* get() const noexcept { return data_.get(); }
  T& operator[](std::int64_t i) const noexcept { return data_[static_cast<std::size_t>(i)]; }
  std::int64_t bytes() const noexcept { return size_ * static_cast<std::int64_t>(sizeof(T)); }

 private:
  static_assert(std::is_trivial_v<T>);
  struct Free {
    std::size_t bytes = 0;
    void operator()(T* data) const noexcept { free_scratch(data, bytes); }
  };

  std::unique_ptr<T[], Free> data_;
  std::int64_t size_ = 0;
};

}  // namespace datasparse
