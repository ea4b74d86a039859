#include "datasparse/runtime.hpp"

#include <atomic>
#include <mutex>
#include <utility>

#include "base/message.hpp"
#include "base/parallel.hpp"
#include "datasparse/error.hpp"
#include "datasparse/version.hpp"
#include "kernels/kernels.hpp"

#if defined(_OPENMP) && (defined(__unix__) || defined(__APPLE__))
#include <pthread.h>
#endif

namespace datasparse {
namespace {

std::atomic<int> limit{0};

struct Handler {
  std::mutex mutex;
  MessageHandler function;
};

Handler& handler() {
  static auto* const instance = new Handler;  // never destroyed: messages may come during exit
  return *instance;
}

}  // namespace

const char* version() noexcept { return DATASPARSE_VERSION; }

int thread_limit() noexcept { return limit.load(std::memory_order_relaxed); }

void set_num_threads(int threads) {
  if (threads < 0) {
    throw ValueError("threads must be at least 0 (0: no limit), got " + std::to_string(threads));
  }
  limit.store(threads, std::memory_order_relaxed);
}

int get_num_threads() noexcept { return available_threads(); }

void make_fork_safe() noexcept {
#if defined(_OPENMP) && (defined(__unix__) || defined(__APPLE__))
  static const bool installed = [] {
    pthread_atfork([] { omp_pause_resource_all(omp_pause_soft); }, nullptr, nullptr);
    return true;
  }();
  (void)installed;
#endif
}

std::string openmp_runtime() {
#if defined(_OPENMP)
  const char* const standard = _OPENMP >= 202011   ? "5.1"
                               : _OPENMP >= 201811 ? "5.0"
                               : _OPENMP >= 201511 ? "4.5"
                                                   : "before 4.5";
  return std::string("OpenMP ") + standard + " (" + std::to_string(_OPENMP) + ")";
#else
  return "none";
#endif
}

std::string instruction_set() { return kernels().name; }

std::vector<std::string> instruction_sets_available() {
  std::vector<std::string> names;
  for (const auto* table : available_kernels()) names.emplace_back(table->name);
  return names;
}

MessageHandler set_message_handler(MessageHandler function) {
  const std::lock_guard<std::mutex> lock(handler().mutex);
  return std::exchange(handler().function, std::move(function));
}

void send_message(Severity severity, const std::string& text) {
  MessageHandler function;
  {
    const std::lock_guard<std::mutex> lock(handler().mutex);
    function = handler().function;
  }
  if (function) function(severity, text);
}

}  // namespace datasparse
