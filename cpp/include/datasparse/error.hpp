/// The exceptions that the library throws. Each one names the argument, the rule and the value.
#pragma once

#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "datasparse/api.h"

namespace datasparse {

/// Base of everything that the library throws on purpose.
class DATASPARSE_API Error : public std::runtime_error {
 public:
  /// A NUL in a name would end what(): it is written as \0.
  explicit Error(const std::string& what);
};

/// A value of the wrong kind: a string where a number is needed, an unknown config key.
class DATASPARSE_API TypeError : public Error {
 public:
  using Error::Error;
};

/// A value of the right kind that breaks a rule: a sparsity level of 1.2, a mask of another shape.
class DATASPARSE_API ValueError : public Error {
 public:
  using Error::Error;
};

/// A name or a config key that does not exist; the message holds the nearest one that does.
class DATASPARSE_API UnknownNameError : public ValueError {
 public:
  using ValueError::ValueError;
};

/// A call at a moment that does not allow it, such as step() from inside update_mask().
class DATASPARSE_API StateError : public Error {
 public:
  using Error::Error;
};

/// A file that cannot be read or written, for a reason that the operating system gives.
class DATASPARSE_API FileError : public Error {
 public:
  /// `code` is an errno.
  FileError(const std::string& what, std::string path, int code)
      : Error(what + ": " + std::generic_category().message(code)),
        path_(std::move(path)),
        code_(code) {}

  /// The file.
  const std::string& path() const noexcept { return path_; }
  /// The errno.
  int code() const noexcept { return code_; }

 private:
  std::string path_;
  int code_;
};

}  // namespace datasparse
