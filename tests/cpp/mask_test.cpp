#include "datasparse/mask.hpp"

#include "support.hpp"

namespace datasparse {
namespace {

TEST(Mask, BeginsWithOnes) {
  const Mask mask(Axes{3, 5});
  EXPECT_EQ(mask.shape(), (Axes{3, 5}));
  EXPECT_EQ(mask.size(), 15);
  EXPECT_EQ(bytes_of(mask), Bytes(15, 1));
  EXPECT_EQ(mask.zeros(), 0);
}

TEST(Mask, IsAlignedToACacheLine) {
  for (std::int64_t n = 0; n < 200; n += 7) {
    const Mask mask(Axes{n});
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(mask.data()) % 64, 0U);
  }
}

TEST(Mask, HasAShapeThatCanBe) {
  for (const Axes& shape : {Axes{-4}, Axes{std::int64_t{1} << 33, std::int64_t{1} << 33}}) {
    EXPECT_NE(message_of<ValueError>([&] { const Mask mask(shape); }).find("shape of a mask"),
              std::string::npos);
  }
}

TEST(Mask, OfNothingOwnsMemoryToo) {
  const Mask mask(Axes{0, 4});
  EXPECT_EQ(mask.size(), 0);
  EXPECT_NE(mask.data(), nullptr);
  EXPECT_TRUE(mask.pack().empty());
  EXPECT_EQ(Mask().data(), nullptr);
}

TEST(Mask, CopiesShareTheBytes) {
  Mask copy;
  {
    const Mask mask(Axes{4});
    copy = mask;
    mask.data()[2] = 0;
  }
  EXPECT_EQ(bytes_of(copy), (Bytes{1, 1, 0, 1}));
  EXPECT_EQ(copy.zeros(), 1);
}

TEST(Mask, PacksTheFirstElementIntoTheLowestBit) {
  const Mask mask(Axes{10});
  for (const int zero : {1, 4, 9}) mask.data()[zero] = 0;
  EXPECT_EQ(mask.pack(), (Bytes{0b11101101, 0b00000001}));
}

TEST(Mask, UnpacksWhatItPacked) {
  Random random(4);
  for (std::int64_t n = 0; n < 70; ++n) {
    const Mask mask(Axes{n});
    for (std::int64_t i = 0; i < n; ++i) mask.data()[i] = random.one_in(2) ? 1 : 0;
    const PackedBits bits = mask.pack();
    ASSERT_EQ(bits.size(), static_cast<std::size_t>((n + 7) / 8));
    if (n % 8 != 0) {
      EXPECT_EQ(bits.back() >> (n % 8), 0) << "the rest is filled with zeros";
    }
    Mask other(Axes{n});
    other.unpack(bits.data());
    EXPECT_EQ(bytes_of(other), bytes_of(mask));
  }
}

TEST(Mask, UnpacksWhatItPackedOnSeveralThreads) {
  Random random(5);
  for (const std::int64_t beyond : {0, 1, 7, 8, 9, 1000}) {
    const Mask mask(Axes{2 * parallel_from + beyond});
    Bytes expected(static_cast<std::size_t>((mask.size() + 7) / 8));
    for (std::int64_t i = 0; i < mask.size(); ++i) {
      const bool kept = random.one_in(3);
      mask.data()[i] = kept ? 1 : 0;
      if (kept)
        expected[static_cast<std::size_t>(i / 8)] |= static_cast<std::uint8_t>(1U << (i % 8));
    }
    for (const int threads : {1, 3}) {
      const Threads scope(threads);
      ASSERT_EQ(difference(bytes_of(mask.pack()), expected), "");
      Mask other(Axes{mask.size()});
      other.unpack(expected.data());
      ASSERT_EQ(difference(bytes_of(other), bytes_of(mask)), "");
    }
  }
}

TEST(Mask, PackedBitsAreAVectorOfAnySize) {
  for (const std::size_t size : {0u, 1u, 1000u, 8u << 20, (8u << 20) + 1}) {
    PackedBits bits(size, 7);
    bits.push_back(9);
    const PackedBits copy = bits;
    EXPECT_TRUE(copy == bits);
    EXPECT_EQ(copy.back(), 9);
    EXPECT_EQ(std::count(copy.begin(), copy.end(), 7), static_cast<std::ptrdiff_t>(size));
  }
}

TEST(Mask, PacksEveryNonzeroByteAsKept) {
  const Mask mask(Axes{3});
  mask.data()[0] = 255;
  mask.data()[1] = 0;
  mask.data()[2] = 2;
  EXPECT_EQ(mask.pack(), Bytes{0b101});

  const Mask all(Axes{256});
  for (int i = 0; i < 256; ++i) all.data()[i] = static_cast<std::uint8_t>(i);
  Bytes expected(32, 0xFF);
  expected[0] = 0xFE;
  EXPECT_EQ(all.pack(), expected);
}

}  // namespace
}  // namespace datasparse
