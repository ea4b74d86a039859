#include "checkpoint/files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <random>

#include "datasparse/error.hpp"

namespace datasparse {
namespace {

/// Calls a function of the system again where a signal has interrupted it.
template <class Call>
auto uninterrupted(const Call& call) {
  decltype(call()) result;
  do {
    result = call();
  } while (result < 0 && errno == EINTR);
  return result;
}

/// The path, of which the system sees no more than what comes before a NUL.
const std::string& without_nul(const std::string& path) {
  if (path.find('\0') == std::string::npos) return path;
  throw ValueError("path must hold no NUL, got one behind '" + std::string(path.c_str()) + "'");
}

// Linux moves at most 2^31 - 4096 bytes in one call.
constexpr std::size_t most_at_once = std::size_t{1} << 30;

void require_regular(const struct stat& status, const std::string& path) {
  if (!S_ISREG(status.st_mode)) throw ValueError("'" + path + "' must be a regular file");
}

/// Where a path leads if it is a link, also if nothing is there yet.
std::string followed(std::string path) {
  constexpr int most_links = 40;  // as many as Linux follows
  for (int links = 0; links < most_links; ++links) {
    char target[4096];
    const auto length = ::readlink(path.c_str(), target, sizeof(target));
    if (length < 0) return path;
    const std::string next(target, static_cast<std::size_t>(length));
    const auto slash = path.rfind('/');
    path =
        next.front() == '/' || slash == std::string::npos ? next : path.substr(0, slash + 1) + next;
  }
  throw FileError("cannot write '" + path + "'", path, ELOOP);
}

/// The new file, under its temporary name, which is removed unless the file takes its place.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& path)
      : path_(path),
        name_(path.substr(path.rfind('/') + 1)),
        folder_(open_folder(path)),
        file_(create()) {}
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (!temporary_name_.empty()) ::unlinkat(folder_.number(), temporary_name_.c_str(), 0);
  }

  void write(const void* data, std::size_t size) {
    const auto* bytes = static_cast<const char*>(data);
    while (size > 0) {
      const auto written = uninterrupted(
          [&] { return ::write(file_.number(), bytes, std::min(size, most_at_once)); });
      if (written < 0) fail();
      bytes += written;
      size -= static_cast<std::size_t>(written);
    }
  }

  void take_place() {
    if (uninterrupted([&] { return ::fsync(file_.number()); }) != 0) fail();
    if (::renameat(folder_.number(), temporary_name_.c_str(), folder_.number(), name_.c_str()) !=
        0) {
      fail();
    }
    temporary_name_.clear();
    // The new name is on the disk once its directory is. Some file systems cannot flush one.
    const int flushed = uninterrupted([&] { return ::fsync(folder_.number()); });
    if (flushed != 0 && errno != EINVAL && errno != ENOTSUP) fail();
  }

 private:
  [[noreturn]] void fail() const { throw FileError("cannot write '" + path_ + "'", path_, errno); }

  Descriptor open_folder(const std::string& path) const {
    const auto slash = path.rfind('/');
    const std::string folder =
        slash == std::string::npos ? "." : path.substr(0, std::max<std::size_t>(slash, 1));
    const int opened =
        uninterrupted([&] { return ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
    if (opened < 0) fail();
    return Descriptor(opened);
  }

  Descriptor create() {
    if (name_.empty()) {
      errno = path_.empty() ? ENOENT : EISDIR;
      fail();
    }
    struct stat old{};
    const bool replaces = ::fstatat(folder_.number(), name_.c_str(), &old, 0) == 0;
    if (!replaces && errno != ENOENT) fail();
    if (replaces) {
      require_regular(old, path_);
      // Renaming asks only the directory: a file that is write-protected stays so.
      if (::faccessat(folder_.number(), name_.c_str(), W_OK, AT_EACCESS) != 0) fail();
    }
    constexpr std::size_t longest = 255 - std::char_traits<char>::length(".01234567.tmp");
    std::random_device random;
    for (;;) {
      char number[9];
      std::snprintf(number, sizeof(number), "%08x", random());
      // Before it is there: from then on, nothing may throw.
      temporary_name_ = name_.substr(0, longest) + "." + number + ".tmp";
      const int opened = uninterrupted([&] {
        return ::openat(folder_.number(), temporary_name_.c_str(),
                        O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      });
      if (opened < 0 && errno == EEXIST) continue;
      if (opened < 0) fail();
      if (replaces) {
        // The owner first, since a change of it may clear bits of the mode.
        [[maybe_unused]] const int allowed = ::fchown(opened, old.st_uid, old.st_gid);
        if (::fchmod(opened, old.st_mode & 07777) != 0) { /* a file system without modes */
        }
      }
      return Descriptor(opened);
    }
  }

  const std::string path_;
  const std::string name_;  // in the folder
  const Descriptor folder_;
  std::string temporary_name_;  // beside it; empty once it is renamed
  const Descriptor file_;
};

}  // namespace

Descriptor::~Descriptor() {
  if (number_ >= 0) ::close(number_);
}

InputFile::InputFile(const std::string& path)
    : path_(without_nul(path)),
      // Without O_NONBLOCK, opening a pipe would wait for a writer.
      file_(
          uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); })) {
  struct stat status{};
  if (file_.number() < 0 || ::fstat(file_.number(), &status) != 0) {
    throw FileError("cannot read '" + path + "'", path, errno);
  }
  require_regular(status, path);
  size_ = static_cast<std::uint64_t>(status.st_size);
#if defined(POSIX_FADV_SEQUENTIAL)                               // not on macOS
  ::posix_fadvise(file_.number(), 0, 0, POSIX_FADV_SEQUENTIAL);  // a wish
#endif
}

void InputFile::read(std::uint64_t offset, void* to, std::size_t size) const {
  auto* bytes = static_cast<char*>(to);
  while (size > 0) {
    const auto got = uninterrupted([&] {
      return ::pread(file_.number(), bytes, std::min(size, most_at_once),
                     static_cast<off_t>(offset));
    });
    if (got < 0) throw FileError("cannot read '" + path_ + "'", path_, errno);
    if (got == 0) throw ValueError("'" + path_ + "' became shorter while it was read");
    bytes += got;
    offset += static_cast<std::uint64_t>(got);
    size -= static_cast<std::size_t>(got);
  }
}

void replace_file(const std::string& path,
                  const std::vector<std::pair<const void*, std::size_t>>& pieces) {
  TemporaryFile file(followed(without_nul(path)));
  for (const auto& [data, size] : pieces) file.write(data, size);
  file.take_place();
}

}  // namespace datasparse
