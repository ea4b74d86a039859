#include "base/bytes.hpp"

#include <algorithm>

#include "support.hpp"

namespace datasparse {
namespace {

TEST(Bytes, AreCombinedOneByOne) {
  Random random(61);
  for (std::int64_t n = 0; n < 70; ++n) {
    const auto size = static_cast<std::size_t>(n);
    Bytes a, b, any;
    for (std::int64_t i = 0; i <= n; ++i) {  // one more, which nobody may touch
      a.push_back(static_cast<std::uint8_t>(random.below(2)));
      b.push_back(static_cast<std::uint8_t>(random.below(2)));
      any.push_back(static_cast<std::uint8_t>(random.below(256)));
    }
    const auto expect = [&](const Bytes& begin, const auto& combine, const auto& one_by_one) {
      Bytes found = begin, expected = begin;
      combine(found.data());
      for (std::size_t i = 0; i < size; ++i) expected[i] = static_cast<std::uint8_t>(one_by_one(i));
      EXPECT_EQ(found, expected) << n << " bytes";
    };
    const auto* by = b.data();
    expect(any, [&](auto* to) { or_bytes(to, by, n); }, [&](auto i) { return any[i] | b[i]; });
    expect(a, [&](auto* to) { or_not_bytes(to, by, n); }, [&](auto i) { return a[i] | !b[i]; });
    expect(a, [&](auto* to) { and_bytes(to, by, n); }, [&](auto i) { return a[i] & b[i]; });
    expect(a, [&](auto* to) { and_not_bytes(to, by, n); }, [&](auto i) { return a[i] & !b[i]; });
    expect(a, [&](auto* to) { flip_bytes(to, n); }, [&](auto i) { return !a[i]; });
    const bool any_zero = std::find(any.begin(), any.end() - 1, 0) != any.end() - 1;
    expect(
        any, [&](auto* to) { EXPECT_EQ(normalise_bytes(to, n), any_zero); },
        [&](auto i) { return any[i] != 0; });
  }
}

}  // namespace
}  // namespace datasparse
