#include <cstdlib>
#include <string>

#include "datasparse/error.hpp"
#include "kernels/kernels.hpp"

namespace datasparse {
namespace {

constexpr const char* environment_name = "DATASPARSE_ISA";

const Kernels& choose() {
  const auto tables = available_kernels();
  const char* const forced = std::getenv(environment_name);
  if (forced == nullptr || *forced == '\0') return **tables.begin();
  std::string names;
  for (const auto* table : tables) {
    if (std::string(forced) == table->name) return *table;
    names += (names.empty() ? "" : ", ") + std::string(table->name);
  }
  throw ValueError(std::string(environment_name) + " must be one of those available here (" +
                   names + "), got '" + forced + "'");
}

}  // namespace

KernelList available_kernels() noexcept {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vbmi2")) {
    return {{&avx512_kernels(), &scalar_kernels(), nullptr}};
  }
#endif
  return {{&scalar_kernels(), nullptr, nullptr}};
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace datasparse
