#if defined(__x86_64__)
#include <cpuid.h>
#endif

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

#if defined(__x86_64__)
/// What __builtin_cpu_supports says of the others; Clang 16 does not know this one.
bool supports_f16c() noexcept {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

}  // namespace

KernelList available_kernels() noexcept {
  KernelList list{};
  const Kernels** next = list.tables;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vbmi2")) {
    *next++ = &avx512_kernels();
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && supports_f16c() &&
      __builtin_cpu_supports("popcnt")) {
    *next++ = &avx2_kernels();
  }
#elif defined(__aarch64__)
  *next++ = &neon_kernels();
#endif
  *next = &scalar_kernels();
  return list;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace datasparse
