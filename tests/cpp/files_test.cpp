#include "checkpoint/files.hpp"

#include <dirent.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "datasparse/error.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

namespace fs = std::filesystem;

class Files : public ::testing::Test {
 protected:
  Files() {
    std::string pattern = (fs::temp_directory_path() / "datasparse-XXXXXX").string();
    folder = ::mkdtemp(pattern.data());
  }
  ~Files() override { fs::remove_all(folder); }

  std::string path(const std::string& name) const { return (folder / name).string(); }
  static void replace(const std::string& path, const std::string& content) {
    replace_file(path,
                 {{content.data(), content.size() / 2},
                  {content.data() + content.size() / 2, content.size() - content.size() / 2}});
  }
  static std::string content(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& entry : fs::directory_iterator(folder)) {
      result.push_back(entry.path().filename().string());
    }
    std::sort(result.begin(), result.end());
    return result;
  }
  static unsigned mode(const std::string& path) {
    struct stat status{};
    EXPECT_EQ(::stat(path.c_str(), &status), 0);
    return status.st_mode & 07777;
  }

  fs::path folder;
};

TEST_F(Files, AreCreatedAndReplaced) {
  replace(path("a"), "first");
  EXPECT_EQ(content(path("a")), "first");
  replace(path("a"), "second, longer");
  EXPECT_EQ(content(path("a")), "second, longer");
  replace(path("a"), "");
  EXPECT_EQ(content(path("a")), "");
  EXPECT_EQ(names(), (std::vector<std::string>{"a"}));
}

TEST_F(Files, AreFoundFromTheWorkingDirectory) {
  const auto before = fs::current_path();
  fs::current_path(folder);
  replace("a", "here");
  fs::current_path(before);
  EXPECT_EQ(content(path("a")), "here");
}

TEST_F(Files, GetTheModeThatOthersGet) {
  const auto before = ::umask(027);
  replace(path("a"), "x");
  ::umask(before);
  EXPECT_EQ(mode(path("a")), 0640U);
}

TEST_F(Files, KeepTheirMode) {
  for (const unsigned kept : {0600U, 0664U, 0755U}) {
    replace(path("a"), "x");
    ASSERT_EQ(::chmod(path("a").c_str(), kept), 0);
    replace(path("a"), "y");
    EXPECT_EQ(mode(path("a")), kept);
  }
}

TEST_F(Files, KeepTheirOwner) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  replace(path("a"), "x");
  ASSERT_EQ(::chown(path("a").c_str(), 1234, 5678), 0);
  replace(path("a"), "y");
  struct stat status{};
  ASSERT_EQ(::stat(path("a").c_str(), &status), 0);
  EXPECT_EQ(status.st_uid, 1234U);
  EXPECT_EQ(status.st_gid, 5678U);
}

TEST_F(Files, FollowLinksAndLeaveThem) {
  fs::create_directory(folder / "b");
  fs::create_symlink("b/target", folder / "link");  // nothing is there yet
  fs::create_symlink(folder / "link", folder / "again");
  for (const char* const text : {"first", "second"}) {
    replace(path("again"), text);
    EXPECT_TRUE(fs::is_symlink(folder / "again"));
    EXPECT_TRUE(fs::is_symlink(folder / "link"));
    EXPECT_FALSE(fs::is_symlink(folder / "b/target"));
    EXPECT_EQ(content(path("b/target")), text);
  }
}

TEST_F(Files, RefuseLinksThatLeadNowhere) {
  fs::create_symlink("b", folder / "a");
  fs::create_symlink("a", folder / "b");
  try {
    replace(path("a"), "x");
    FAIL();
  } catch (const FileError& error) {
    EXPECT_EQ(error.code(), ELOOP);
  }
}

TEST_F(Files, RefuseWhatIsNoFile) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  for (const std::string& other : {folder.string(), path("pipe"), std::string("/dev/null")}) {
    EXPECT_EQ(message_of<ValueError>([&] { replace(other, "x"); }),
              "'" + other + "' must be a regular file");
    EXPECT_EQ(message_of<ValueError>([&] { InputFile file(other); }),
              "'" + other + "' must be a regular file");
  }
  EXPECT_EQ(names(), (std::vector<std::string>{"pipe"}));
}

TEST_F(Files, SayWhyTheyCannotBeOpened) {
  const auto code_of = [](const auto& work) {
    try {
      work();
    } catch (const FileError& error) {
      return error.code();
    }
    return 0;
  };
  EXPECT_EQ(code_of([&] { replace(path("none/a"), "x"); }), ENOENT);
  EXPECT_EQ(code_of([&] { replace("", "x"); }), ENOENT);
  EXPECT_EQ(code_of([&] { replace(folder.string() + "/", "x"); }), EISDIR);
  EXPECT_EQ(code_of([&] { InputFile file(path("none")); }), ENOENT);
  EXPECT_EQ(message_of<FileError>([&] { InputFile file(path("none")); }),
            "cannot read '" + path("none") + "': No such file or directory");
}

TEST_F(Files, MayHaveTheLongestOfNames) {
  const std::string longest(255, 'n');
  replace(path(longest), "x");
  replace(path(longest), "y");
  EXPECT_EQ(content(path(longest)), "y");
  EXPECT_EQ(names(), (std::vector<std::string>{longest}));
}

TEST_F(Files, StayAsTheyWereWhenTheDiskIsFull) {
  replace(path("a"), "old");
  const auto child = ::fork();
  if (child == 0) {  // a limit cannot be taken back
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1000, 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      replace(path("a"), std::string(5000, 'x'));
    } catch (const FileError& error) {
      ::_exit(error.code() == EFBIG ? 7 : 1);
    }
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_EQ(content(path("a")), "old");
  EXPECT_EQ(names(), (std::vector<std::string>{"a"})) << "no temporary file is left";
}

TEST_F(Files, AreReadInPieces) {
  replace(path("a"), "0123456789");
  const InputFile file(path("a"));
  EXPECT_EQ(file.size(), 10U);
  std::string part(4, ' ');
  file.read(3, part.data(), part.size());
  EXPECT_EQ(part, "3456");
  EXPECT_EQ(message_of<ValueError>([&] { file.read(8, part.data(), part.size()); }),
            "'" + path("a") + "' became shorter while it was read");
}

TEST_F(Files, AreReadAsTheyWereWhenReplaced) {
  replace(path("a"), "old");
  const InputFile file(path("a"));
  replace(path("a"), "new");
  std::string all(3, ' ');
  file.read(0, all.data(), all.size());
  EXPECT_EQ(all, "old");
}

}  // namespace
}  // namespace datasparse
