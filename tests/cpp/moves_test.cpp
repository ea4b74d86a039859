#include "tiles/moves.hpp"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "support.hpp"
#include "tiles/choice.hpp"

namespace datasparse {
namespace {

TEST(Moves, ExceedFindsEveryBlockThatKeepsTooMuch) {
  Random random(73);
  for (const std::int64_t width : {2, 3, 4, 8, 16}) {
    for (int done = 0; done < 400; ++done) {
      const std::int64_t blocks = random.between(1, 40), most = random.between(0, width);
      Bytes states;
      for (std::int64_t i = 0; i < blocks * width; ++i) {
        states.push_back(static_cast<std::uint8_t>(random.below(16)));
      }
      bool any = false;
      for (std::int64_t block = 0; block < blocks; ++block) {
        const auto keeps = [&] {
          return std::count_if(states.begin() + block * width, states.begin() + (block + 1) * width,
                               [](std::uint8_t state) { return (state & 3) == 1; });
        };
        // Most blocks keep what they may, so that a single one tells.
        while (keeps() > most && !random.one_in(400)) {
          states[static_cast<std::size_t>(block * width + random.below(width))] = 0;
        }
        any = any || keeps() > most;
      }
      const auto n = static_cast<std::int64_t>(states.size());
      ASSERT_EQ(moving::exceed(states.data(), n, width, most), any)
          << blocks << " blocks of " << width << " that may keep " << most;
    }
  }
}

TEST(Moves, AnyByteButZeroOfAMaskIsActive) {
  for (const Bytes& mask : {Bytes{0, 1, 1, 0, 1}, Bytes{0, 1, 255, 0, 2}}) {
    Bytes states = mask;
    const MoveCounts counts = begin_elements(kernels(), states.data(), nullptr, 5, false);
    EXPECT_EQ(states, (Bytes{0, 1, 1, 0, 1}));
    EXPECT_EQ(counts.active, 3);
    EXPECT_EQ(counts.dead, 0);
  }
}

}  // namespace
}  // namespace datasparse
