/// From exceptions to statuses, and back: no exception passes a C function in either direction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "datasparse/datasparse.h"
#include "datasparse/error.hpp"

namespace datasparse::c_abi {

/// What a callback returned, on its way through the library to the C function that led to it.
class CallbackFailed : public std::runtime_error {
 public:
  CallbackFailed(datasparse_status code, const std::string& message)
      : std::runtime_error(message), code_(code) {}

  datasparse_status code() const noexcept { return code_; }

 private:
  datasparse_status code_;
};

/// Keeps the message for datasparse_error_message().
void set_error_message(const char* message) noexcept;
/// How often this thread has done so.
unsigned error_messages() noexcept;
/// The status of the exception that is being handled, whose message is kept.
datasparse_status status_of_exception() noexcept;

/// The body of a C function.
template <class Work>
datasparse_status guarded(Work&& work) noexcept {
  try {
    std::forward<Work>(work)();
    return DATASPARSE_OK;
  } catch (...) {
    return status_of_exception();
  }
}

/// CallbackFailed for what a callback has returned, or thrown, with the message that it has left,
/// if any. `name` is the callback's.
[[noreturn]] void fail(const char* name, datasparse_status status, bool left_message);
[[noreturn]] void fail_by_exception(const char* name);

/// Calls a callback, and fails where it does.
template <class... Parameters, class... Arguments>
void call_back(const char* name, datasparse_status (*callback)(Parameters...),
               Arguments&&... arguments) {
  const unsigned before = error_messages();
  datasparse_status status = DATASPARSE_OK;
  try {
    status = callback(std::forward<Arguments>(arguments)...);
  } catch (...) {
    fail_by_exception(name);
  }
  if (status != DATASPARSE_OK) fail(name, status, error_messages() != before);
}

[[noreturn]] void refuse_null(const char* name);
[[noreturn]] void refuse_version(const char* name, std::uint32_t version);

/// ValueError for NULL. `name` is the argument's.
template <class T>
T& required(T* pointer, const char* name) {
  if (pointer == nullptr) refuse_null(name);
  return *pointer;
}
/// Hands out a new handle to what make() returns.
template <class Handle, class Make>
datasparse_status hand_out(Handle** handle, const char* name, const Make& make) {
  return guarded([&] {
    Handle*& result = required(handle, name);  // before `new`, lest it leak
    result = new Handle{make()};
  });
}
/// A string of the caller's.
inline std::string text(const char* string, const char* name) { return &required(string, name); }
/// ValueError for NULL, unless the array is empty.
template <class T>
const T* items(const T* array, std::size_t count, const char* name) {
  return count == 0 ? array : &required(array, name);
}
/// ValueError for a place that is not there.
void require_index(std::size_t index, std::size_t size);
/// Writes where items are, and how many: both, or neither.
template <class Items, class T, class Count>
void output(const Items& held, T** values, const char* values_name, Count* count,
            const char* count_name) {
  T*& first = required(values, values_name);
  required(count, count_name) = static_cast<Count>(held.size());
  first = held.data();
}
/// A struct of the caller's: of this header's layout, or an older one's.
template <class T>
T& versioned(T* pointer, const char* name) {
  T& value = required(pointer, name);
  if (value.version < 1 || value.version > DATASPARSE_ABI_VERSION) {
    refuse_version(name, value.version);
  }
  return value;
}
/// A function pointer of the caller's.
template <class F>
F function(F pointer, const char* name) {
  if (pointer == nullptr) refuse_null(name);
  return pointer;
}

}  // namespace datasparse::c_abi
