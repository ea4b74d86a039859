#include "c_abi/status.hpp"

#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

namespace datasparse::c_abi {
namespace {

// Without a destructor: calls may still fail while the thread's other objects are destroyed. And
// without an allocation, since one may have failed. What is longer is cut off.
thread_local char last_message[1024] = "";
thread_local unsigned messages = 0;

}  // namespace

void set_error_message(const char* message) noexcept {
  // The message may be the last one, or the end of it.
  std::size_t size = strnlen(message, sizeof last_message - 1);
  const bool is_cut = message[size] != '\0';
  std::memmove(last_message, message, size);
  const auto goes_on = [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; };
  if (is_cut) {  // not within a character of UTF-8
    while (size > 0 && goes_on(last_message[size - 1])) --size;
    if (size > 0 && static_cast<unsigned char>(last_message[size - 1]) >= 0xC0) --size;
  }
  last_message[size] = '\0';
  ++messages;
}

unsigned error_messages() noexcept { return messages; }

datasparse_status status_of_exception() noexcept {
  const auto keep = [](const std::exception& error, datasparse_status status) {
    set_error_message(error.what());
    return status;
  };
  try {
    throw;
  } catch (const CallbackFailed& error) {
    return keep(error, error.code());
  } catch (const TypeError& error) {
    return keep(error, DATASPARSE_TYPE_ERROR);
  } catch (const UnknownNameError& error) {  // a ValueError too
    return keep(error, DATASPARSE_UNKNOWN_NAME);
  } catch (const ValueError& error) {
    return keep(error, DATASPARSE_VALUE_ERROR);
  } catch (const StateError& error) {
    return keep(error, DATASPARSE_STATE_ERROR);
  } catch (const FileError& error) {
    return keep(error, DATASPARSE_FILE_ERROR);
  } catch (const std::bad_alloc&) {
    set_error_message("out of memory");
    return DATASPARSE_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    return keep(error, DATASPARSE_INTERNAL_ERROR);
  } catch (...) {
    set_error_message("an exception of an unknown kind");
    return DATASPARSE_INTERNAL_ERROR;
  }
}

void fail(const char* name, datasparse_status status, bool left_message) {
  if (left_message) throw CallbackFailed(status, datasparse_error_message());
  throw CallbackFailed(status, std::string(name) + " returned " + std::to_string(status));
}

void fail_by_exception(const char* name) {
  try {
    throw;
  } catch (const std::exception& error) {
    throw CallbackFailed(DATASPARSE_CALLBACK_ERROR, std::string(name) + ": " + error.what());
  } catch (...) {
    throw CallbackFailed(DATASPARSE_CALLBACK_ERROR, std::string(name) + " threw an exception");
  }
}

void refuse_null(const char* name) { throw ValueError(std::string(name) + " must not be NULL"); }

void refuse_version(const char* name, std::uint32_t version) {
  throw ValueError(std::string(name) + "->version must be at least 1 and at most " +
                   std::to_string(DATASPARSE_ABI_VERSION) + ", that of this library, got " +
                   std::to_string(version));
}

void require_index(std::size_t index, std::size_t size) {
  if (index < size) return;
  throw ValueError("index must be below " + std::to_string(size) + ", got " +
                   std::to_string(index));
}

}  // namespace datasparse::c_abi

using namespace datasparse::c_abi;

const char* datasparse_error_message() { return last_message; }

void datasparse_set_error_message(const char* message) {
  set_error_message(message == nullptr ? "" : message);
}
