#include "checkpoint/xxh64.hpp"

#include "support.hpp"

namespace datasparse {
namespace {

TEST(Xxh64, IsTheOneOfTheSpecification) {
  EXPECT_EQ(xxh64("", 0), 0xEF46DB3751D8E999);
  EXPECT_EQ(xxh64("abc", 3), 0x44BC2CF5AD770999);
}

// The expected values are those of Python's xxhash 3.
TEST(Xxh64, OfEveryKindOfLength) {
  Bytes bytes;
  for (unsigned i = 0; i < 1000; ++i) bytes.push_back(static_cast<std::uint8_t>(i * i + 7 * i + 3));
  const std::vector<std::pair<std::size_t, std::uint64_t>> expected{
      {0, 0xEF46DB3751D8E999},   {1, 0x1F25C8D0BC1F4BB6},   {3, 0x03925F881277ED8A},
      {4, 0xBB199537CF42FA2D},   {5, 0x083C1EBCE070E3E9},   {7, 0xF9CAF6561DC2F2CC},
      {8, 0xF1FA9F9C6F9769C9},   {9, 0xFE158EB847BF85F7},   {12, 0x956C5449E13EAF4A},
      {15, 0xCA30955FDCCD4656},  {16, 0xEC4056CD51818907},  {31, 0xAB0F2550D70D4AF5},
      {32, 0x6E110801EEEAF7C8},  {33, 0xC29756A35D78DF17},  {36, 0xA1DD4A4FD1FD79A5},
      {39, 0xEB3BD5EED96EDC7D},  {40, 0x7474104AF211AB60},  {63, 0xC80F552C40DDFD81},
      {64, 0xA4102A8C8C51E2B4},  {65, 0xE897974B9222E788},  {100, 0x958BC87A85319D2A},
      {255, 0x8C7AE2759022776D}, {1000, 0xD1FA83CB03A9542A}};
  for (const auto& [size, hash] : expected) EXPECT_EQ(xxh64(bytes.data(), size), hash) << size;
}

TEST(Xxh64, OfUnalignedMemoryIsTheSame) {
  Bytes bytes(200, 7);
  for (std::size_t shift = 0; shift < 9; ++shift) {
    EXPECT_EQ(xxh64(bytes.data() + shift, 150), xxh64(bytes.data(), 150));
  }
}

TEST(Xxh64, OfPiecesIsThatOfTheWhole) {
  Bytes bytes;
  for (unsigned i = 0; i < 200; ++i) bytes.push_back(static_cast<std::uint8_t>(i * i + 7 * i + 3));
  for (std::size_t first = 0; first <= 70; ++first) {
    for (std::size_t second = 0; second <= 70; ++second) {
      Xxh64 hash;
      hash.update(bytes.data(), first);
      hash.update(bytes.data() + first, second);
      hash.update(bytes.data() + first + second, bytes.size() - first - second);
      ASSERT_EQ(hash.digest(), xxh64(bytes.data(), bytes.size())) << first << ", " << second;
    }
  }
}

TEST(Xxh64, ChangesWithEveryBit) {
  for (const std::size_t size : {1u, 7u, 20u, 70u}) {
    Bytes bytes(size, 0x5A);
    const auto before = xxh64(bytes.data(), size);
    for (std::size_t bit = 0; bit < 8 * size; ++bit) {
      bytes[bit / 8] ^= static_cast<std::uint8_t>(1U << (bit % 8));
      EXPECT_NE(xxh64(bytes.data(), size), before) << bit << " of " << size << " bytes";
      bytes[bit / 8] ^= static_cast<std::uint8_t>(1U << (bit % 8));
    }
  }
}

}  // namespace
}  // namespace datasparse
