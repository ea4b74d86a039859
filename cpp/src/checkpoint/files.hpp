/// Files: read in pieces, and replaced as a whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace datasparse {

/// A POSIX file descriptor, closed at the end of a scope.
class Descriptor {
 public:
  explicit Descriptor(int number) noexcept : number_(number) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor();

  int number() const noexcept { return number_; }

 private:
  int number_;
};

/// A regular file, open for reading.
class InputFile {
 public:
  /// FileError where it cannot be opened, ValueError for a directory, a pipe or a device.
  explicit InputFile(const std::string& path);

  /// As it was when the file was opened.
  std::uint64_t size() const noexcept { return size_; }
  /// FileError; ValueError where the file has become shorter.
  void read(std::uint64_t offset, void* to, std::size_t size) const;

 private:
  std::string path_;
  Descriptor file_;
  std::uint64_t size_ = 0;
};

/// Replaces a file by the pieces, one after another, or creates it. Whoever opens the path, at any
/// moment and after any crash, finds the old file or the whole new one: the new one is written
/// beside it under another name, flushed to the disk, and renamed. A link is followed, and stays a
/// link. The new file has the old one's permissions, and its owner where the system allows it.
///
/// FileError, and the path is as before. (If only the last flush of the directory fails, the new
/// file is there, but might not survive a crash.) ValueError for what is no regular file. A process
/// that is killed leaves its unfinished file behind: the name, a number, and ".tmp".
void replace_file(const std::string& path,
                  const std::vector<std::pair<const void*, std::size_t>>& pieces);

}  // namespace datasparse
