// For test_out_of_memory.py, preloaded: replaces operator new for the whole process, and refuses
// one request of the calling thread when told to.

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace {

thread_local long left = -1;  // requests until the one that is refused; -1: none is
thread_local bool refused = false;

// As in allocation_test.cpp: libstdc++ 12 cannot fail to copy two integers in a std::variant.
constexpr std::size_t spared = 16;

/// Torch's requests are granted: where its pybind11 cannot register an object, it frees it twice.
bool is_torchs(const void* caller) {
  Dl_info file;
  return dladdr(caller, &file) != 0 && std::strstr(file.dli_fname, "/torch/") != nullptr;
}

void* allocate(std::size_t size, const void* caller) {
  if (left >= 0 && size != spared && !is_torchs(caller) && left-- == 0) {
    refused = true;
    throw std::bad_alloc();
  }
  void* const memory = std::malloc(size > 0 ? size : 1);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

extern "C" void refuse_allocation(long nth) {
  left = nth;
  refused = false;
}
extern "C" int stop_refusing() {
  left = -1;
  return refused ? 1 : 0;
}

void* operator new(std::size_t size) { return allocate(size, __builtin_return_address(0)); }
void* operator new[](std::size_t size) { return allocate(size, __builtin_return_address(0)); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return allocate(size, __builtin_return_address(0));
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
