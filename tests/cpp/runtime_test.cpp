#include "datasparse/runtime.hpp"

#include <cstdlib>
#include <thread>

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "base/message.hpp"
#include "datasparse/apply_mask.hpp"
#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/datasparse.hpp"
#include "datasparse/error.hpp"
#include "datasparse/version.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

TEST(Version, IsThatOfTheBuild) {
  const std::string expected = std::to_string(DATASPARSE_VERSION_MAJOR) + "." +
                               std::to_string(DATASPARSE_VERSION_MINOR) + "." +
                               std::to_string(DATASPARSE_VERSION_PATCH);
  EXPECT_EQ(version(), expected);
  EXPECT_EQ(DATASPARSE_VERSION, expected);
}

TEST(OpenMPRuntime, SaysWhetherThereIsOne) {
#if defined(_OPENMP)
  EXPECT_EQ(openmp_runtime().rfind("OpenMP ", 0), 0U) << openmp_runtime();
  EXPECT_NE(openmp_runtime().find(std::to_string(_OPENMP)), std::string::npos);
#else
  EXPECT_EQ(openmp_runtime(), "none");
#endif
}

// --- threads ---------------------------------------------------------------------------------

class NumThreads : public ::testing::Test {
 protected:
  ~NumThreads() override { set_num_threads(0); }
};

TEST_F(NumThreads, MustNotBeNegative) {
  set_num_threads(1);
  EXPECT_EQ(message_of<ValueError>([] { set_num_threads(-1); }),
            "threads must be at least 0 (0: no limit), got -1");
  EXPECT_EQ(get_num_threads(), 1);
}

TEST_F(NumThreads, IsAtLeastOne) {
  set_num_threads(0);
  EXPECT_GE(get_num_threads(), 1);
}

#if defined(_OPENMP)
TEST_F(NumThreads, IsTheLesserOfOurLimitAndOpenMPs) {
  const Threads scope(4);
  EXPECT_EQ(get_num_threads(), 4);
  set_num_threads(3);
  EXPECT_EQ(get_num_threads(), 3);
  set_num_threads(100);
  EXPECT_EQ(get_num_threads(), 4);
  omp_set_num_threads(2);
  EXPECT_EQ(get_num_threads(), 2);
  set_num_threads(0);
  EXPECT_EQ(get_num_threads(), 2);
}

TEST_F(NumThreads, OfOpenMPBelongToTheCallingThread) {
  const Threads scope(4);
  int other = 0;
  std::thread([&other] {
    omp_set_num_threads(2);
    other = get_num_threads();
  }).join();
  EXPECT_EQ(other, 2);
  EXPECT_EQ(get_num_threads(), 4);
}
#endif

// --- messages --------------------------------------------------------------------------------

TEST(MessageHandler, IsDroppedWithoutAHandler) {
  const auto before = set_message_handler({});
  EXPECT_NO_THROW(send_message(Severity::warning, "nobody listens"));
  set_message_handler(before);
}

TEST(MessageHandler, IsExchangedForTheOneBefore) {
  std::string heard;
  const auto before =
      set_message_handler([&](Severity, const std::string& text) { heard = "1" + text; });
  auto first = set_message_handler([&](Severity, const std::string& text) { heard = "2" + text; });
  send_message(Severity::info, "x");
  EXPECT_EQ(heard, "2x");
  first(Severity::info, "y");
  EXPECT_EQ(heard, "1y");
  set_message_handler(before);
}

TEST(MessageHandler, MayThrowAndMaySetAnother) {
  const auto before = set_message_handler([](Severity, const std::string& text) {
    set_message_handler({});
    throw std::runtime_error(text);
  });
  EXPECT_THROW(send_message(Severity::warning, "x"), std::runtime_error);
  EXPECT_NO_THROW(send_message(Severity::warning, "x"));
  set_message_handler(before);
}

// --- instruction sets ------------------------------------------------------------------------

TEST(InstructionSet, IsTheBestThatIsAvailableOrTheOneForced) {
  const auto available = instruction_sets_available();
  ASSERT_FALSE(available.empty());
  EXPECT_EQ(available.back(), "scalar");
  const char* const forced = std::getenv("DATASPARSE_ISA");
  EXPECT_EQ(instruction_set(), forced != nullptr && *forced != '\0' ? forced : available.front());
}

#if defined(__unix__)
/// Exits with 0 if `check` holds in a fresh process with that DATASPARSE_ISA.
template <class Check>
void exit_with_isa(const char* isa, const Check& check) {
  setenv("DATASPARSE_ISA", isa, 1);
  std::_Exit(check() ? 0 : 1);
}

template <class Call>
bool refuses(const Call& call) {
  try {
    call();
  } catch (const ValueError& error) {
    const std::string message = error.what();
    return message.find("DATASPARSE_ISA") != std::string::npos &&
           message.find("scalar") != std::string::npos && message.find("mmx") != std::string::npos;
  }
  return false;
}

// The kernels are chosen once: these run in processes of their own ("threadsafe": started anew).
class ForcedIsa : public ::testing::Test {
 protected:
  ForcedIsa() { ::testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};
using ForcedIsaDeathTest = ForcedIsa;

TEST_F(ForcedIsaDeathTest, IsTheOneInUse) {
  for (const auto& isa : instruction_sets_available()) {
    EXPECT_EXIT(exit_with_isa(isa.c_str(), [&isa] { return instruction_set() == isa; }),
                ::testing::ExitedWithCode(0), "");
  }
}

TEST_F(ForcedIsaDeathTest, EmptyForcesNothing) {
  EXPECT_EXIT(
      exit_with_isa("", [] { return instruction_set() == instruction_sets_available().front(); }),
      ::testing::ExitedWithCode(0), "");
}

TEST_F(ForcedIsaDeathTest, UnavailableIsAnErrorOfEveryCallThatNeedsKernels) {
  const auto all_refuse = [] {
    float numbers[4] = {1, 2, 3, 4};
    std::uint8_t mask[4] = {0, 7, 7, 7};
    const ArrayView view(numbers, {4});
    DataNormSparsifier sparsifier;
    return refuses([] { instruction_set(); }) && refuses([] { instruction_set(); }) &&
           refuses([&] { block_mask(view, spec(1, 1, 1), mask); }) &&
           refuses([&] { apply_mask(view, mask); }) &&
           refuses([&] { sparsifier.add_data("a", view); }) && numbers[0] == 1 && mask[1] == 7 &&
           sparsifier.names().empty() && !instruction_sets_available().empty();
  };
  EXPECT_EXIT(exit_with_isa("mmx", all_refuse), ::testing::ExitedWithCode(0), "");
}

// --- fork ------------------------------------------------------------------------------------

class Fork : public ::testing::Test {
 protected:
  Fork() : tensor(DType::float32, parallel_matrix(500)) {
    Random random(700);
    fill(tensor, Values::few, random);
  }

  /// Whether a step in a forked child ends, within 20 seconds, in the mask expected.
  bool child_succeeds(DataNormSparsifier& sparsifier) {
    const Bytes expected = reference::mask(tensor.view(), rules_of(spec(0.3, 1, 4)));
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);
      sparsifier.step();
      _exit(bytes_of(sparsifier.get_mask("a")) == expected ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

  Tensor tensor;
};

TEST_F(Fork, ChildWorksAfterAParallelStep) {
  const Threads scope(4);
  DataNormSparsifier sparsifier(spec(0.3, 1, 4));
  sparsifier.add_data("a", tensor.view());
  sparsifier.step();
  EXPECT_TRUE(child_succeeds(sparsifier));
  sparsifier.step();
  EXPECT_TRUE(child_succeeds(sparsifier)) << "the second time as well";
  EXPECT_EQ(sparsifier.step_count(), 2);
}

TEST_F(Fork, ChildWorksBeforeTheFirstStep) {
  const Threads scope(4);
  DataNormSparsifier sparsifier(spec(0.3, 1, 4));
  sparsifier.add_data("a", tensor.view());
  EXPECT_TRUE(child_succeeds(sparsifier));
}

TEST_F(Fork, ChildOfAnotherThreadWorksAfterAParallelStep) {
  const Threads scope(4);
  DataNormSparsifier sparsifier(spec(0.3, 1, 4));
  sparsifier.add_data("a", tensor.view());
  sparsifier.step();
  bool succeeded = false;
  std::thread([&] {
    const Threads inner(2);
    sparsifier.step();
    succeeded = child_succeeds(sparsifier);
  }).join();
  EXPECT_TRUE(succeeded);
}
#endif

}  // namespace
}  // namespace datasparse
