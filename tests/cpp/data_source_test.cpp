#include "datasparse/data_source.hpp"

#include "support.hpp"

namespace datasparse {
namespace {

TEST(MakeSource, PinsTheSameViewEveryTime) {
  float numbers[4] = {};
  const ArrayView view(numbers, {2, 2});
  const auto source = make_source(view);
  EXPECT_TRUE(source->pin() == view);
  EXPECT_TRUE(source->pin() == view);
  source->unpin();
  source->unpin();
}

TEST(Pin, UnpinsAtTheEndOfItsScope) {
  float number = 0;
  CountingSource source(ArrayView(&number, {1}));
  {
    const Pin pin(source);
    EXPECT_TRUE(pin.view() == source.view);
    EXPECT_EQ(source.unpins, 0);
  }
  EXPECT_EQ(source.unpins, 1);
}

TEST(Pin, DoesNotUnpinWhatCouldNotBePinned) {
  float number = 0;
  CountingSource source(ArrayView(&number, {1}));
  source.fails = true;
  EXPECT_THROW(Pin{source}, std::runtime_error);
  EXPECT_EQ(source.unpins, 0);
}

}  // namespace
}  // namespace datasparse
