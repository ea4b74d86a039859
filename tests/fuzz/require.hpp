/// How the fuzzers say that something is wrong.
#pragma once

#include <cstdlib>
#include <iostream>

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::cerr << what << " does not hold\n";
  std::abort();
}
