// Samples added to the sums that groups keep, and states that name a score.

#include "datasparse/score_sums.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/group_arrays.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

float plain_term(ScoreTerm term, float w, float g) {
  switch (term) {
    case ScoreTerm::gradient: return g;
    case ScoreTerm::abs_gradient: return std::fabs(g);
    case ScoreTerm::square_gradient: return g * g;
    case ScoreTerm::product: return w * g;
    case ScoreTerm::abs_product: return std::fabs(w * g);
    case ScoreTerm::square_product: return (w * g) * (w * g);
    case ScoreTerm::weighted_square: return w * w * g;
  }
  return 0;
}

/// Two groups, and a gradient for each.
class ScoreSumsTest : public testing::Test {
 protected:
  ScoreSumsTest() {
    sparsifier.add_data("a", ArrayView(a.data(), Axes{2, 3}));
    sparsifier.add_data("b", ArrayView(b.data(), Axes{2}));
  }
  static ScoreSums::Sample sample(const std::string& name, std::vector<float>& gradient,
                                  const Axes& shape) {
    return {name, make_source(ArrayView(gradient.data(), shape))};
  }
  std::vector<ScoreSums::Sample> both() {
    return {sample("a", of_a, Axes{2, 3}), sample("b", of_b, Axes{2})};
  }
  std::vector<float> sums(const std::string& name) {
    const auto array = GroupArrays(sparsifier).get(name, ScoreSums::sums);
    std::vector<float> values(array->byte_count() / sizeof(float));
    std::memcpy(values.data(), array->data(), array->byte_count());
    return values;
  }

  std::vector<float> a{1, -2, 3, -4, 5, -6}, of_a{0.5F, 0.25F, -1, 2, -3, 0.125F};
  std::vector<float> b{0.1F, 0.2F}, of_b{3, -7};
  DataNormSparsifier sparsifier{spec(0.5, 1, 1)};
};

TEST_F(ScoreSumsTest, AddsEveryTerm) {
  for (int kind = 0; kind <= static_cast<int>(ScoreTerm::weighted_square); ++kind) {
    const auto term = static_cast<ScoreTerm>(kind);
    GroupArrays(sparsifier).erase_all({ScoreSums::sums, ScoreSums::samples});
    for (int i = 0; i < 2; ++i) ScoreSums(sparsifier).add(term, -2, both());
    const auto found = sums("a");
    for (std::size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(found[i], -2 * plain_term(term, a[i], of_a[i]) * 2) << kind << " " << i;
    }
    std::int64_t samples = 0;
    std::memcpy(&samples, GroupArrays(sparsifier).get("b", ScoreSums::samples)->data(), 8);
    EXPECT_EQ(samples, 2);
  }
}

TEST_F(ScoreSumsTest, SumsDecay) {
  for (const double decay : {0.0, 0.9, 1.0}) {
    GroupArrays(sparsifier).erase_all({ScoreSums::sums, ScoreSums::samples});
    std::vector<float> expected(a.size());
    for (int i = 0; i < 3; ++i) {
      of_a[0] = static_cast<float>(i) - 0.3F;
      ScoreSums(sparsifier).add(ScoreTerm::product, -1, both(), decay);
      for (std::size_t j = 0; j < a.size(); ++j) {
        const float less = static_cast<float>(decay) * expected[j];
        expected[j] = less - a[j] * of_a[j];
      }
    }
    EXPECT_EQ(sums("a"), expected) << decay;
  }
}

TEST_F(ScoreSumsTest, AddsAllOrNothing) {
  ScoreSums(sparsifier).add(ScoreTerm::product, 1, both());
  const auto before = sums("a");
  for (const double decay : {-0.1, 1.5, std::nan("")}) {
    const auto message = message_of<ValueError>(
        [&] { ScoreSums(sparsifier).add(ScoreTerm::product, 1, both(), decay); });
    EXPECT_EQ(message.rfind("decay must be in [0, 1], got ", 0), 0U) << message;
    EXPECT_EQ(sums("a"), before);
  }
  for (const double scale : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    const auto message = message_of<ValueError>(
        [&] { ScoreSums(sparsifier).add(ScoreTerm::product, scale, both()); });
    EXPECT_EQ(message.rfind("scale must be finite, got ", 0), 0U) << message;
  }
  EXPECT_EQ(message_of<TypeError>(
                [&] { ScoreSums(sparsifier).add(ScoreTerm::product, 1, {{"a", nullptr}}); }),
            "gradient of 'a' must be a source, got none");
  EXPECT_EQ(sums("a"), before);
  const auto refused = [&](const char* with) {
    const auto message =
        message_of<ValueError>([&] { ScoreSums(sparsifier).add(ScoreTerm::product, 1, both()); });
    EXPECT_NE(message.find(with), std::string::npos) << message;
    EXPECT_EQ(sums("a"), before);
  };
  of_b[1] = std::numeric_limits<float>::quiet_NaN();
  refused("gradient of 'b' must be finite");
  of_b[1] = 1;
  GroupArrays(sparsifier).set("b", ScoreSums::sums, KeptArray(KeptArray::Type::float64, Axes{2}));
  refused("sums of 'b' are of float64 and shape (2,), and its data need float32 and (2,)");
  EXPECT_EQ(message_of<ValueError>([&] {
              ScoreSums(sparsifier).add(ScoreTerm::product, 1, {sample("b", of_a, Axes{6})});
            }),
            "gradient of 'b' must have the shape of its data, (2,), got (6,)");
  EXPECT_EQ(message_of<UnknownNameError>([&] {
              ScoreSums(sparsifier).add(ScoreTerm::product, 1, {sample("gone", of_a, Axes{6})});
            }),
            "no data named 'gone'; known: 'a', 'b'");
}

TEST_F(ScoreSumsTest, BeginsAnewWhereSamplesHaveNoSums) {
  GroupArrays arrays(sparsifier);
  arrays.set("b", ScoreSums::samples, KeptArray(KeptArray::Type::uint8, Axes{1}));
  ScoreSums(sparsifier).add(ScoreTerm::gradient, 1, both());
  EXPECT_EQ(sums("b"), of_b);
  EXPECT_EQ(arrays.get("b", ScoreSums::samples), arrays.get("a", ScoreSums::samples));
  arrays.set("b", ScoreSums::samples, KeptArray(KeptArray::Type::float64, Axes{}));
  EXPECT_NE(message_of<ValueError>([&] {
              ScoreSums(sparsifier).add(ScoreTerm::gradient, 1, both());
            }).find("call reset_score() first"),
            std::string::npos);
}

/// Ranks by its sums, and says so.
struct Summed : DataNormSparsifier {
  using DataNormSparsifier::DataNormSparsifier;

  std::shared_ptr<DataSource> get_scores(const std::string& name, const ArrayView& data,
                                         const ParamMap&) override {
    sums = *GroupArrays(*this).get(name, ScoreSums::sums);
    return make_source(ArrayView(reinterpret_cast<const float*>(sums.data()), data.shape()));
  }
  ForeignHooks foreign_hooks() const override { return {false, false, own_scores}; }
  std::string score_name() const override { return "Summed()"; }

  KeptArray sums;
};

TEST(ScoreName, IsSavedAndAnotherIsRefused) {
  std::vector<float> weights{1, 2, 3, 4}, gradient{4, 3, -2, 1};
  Summed summed{spec(0.5, 1, 1)}, same{spec(0.5, 1, 1)};
  DataNormSparsifier plain{spec(0.5, 1, 1)};
  for (DataNormSparsifier* const each : {static_cast<DataNormSparsifier*>(&summed),
                                         static_cast<DataNormSparsifier*>(&same), &plain}) {
    each->add_data("w", ArrayView(weights.data(), Axes{4}));
  }
  ScoreSums(summed).add(ScoreTerm::abs_gradient, 1,
                        {{"w", make_source(ArrayView(gradient.data(), Axes{4}))}});
  summed.step();
  EXPECT_EQ(bytes_of(summed.get_mask("w")), (Bytes{1, 1, 0, 0}));
  const auto state = summed.save_state();
  EXPECT_EQ(state.score, "Summed()");
  same.load_state(state);
  EXPECT_EQ(GroupArrays(same).get("w", "sums"), GroupArrays(summed).get("w", "sums"));
  EXPECT_EQ(message_of<ValueError>([&] { plain.load_state(state); }),
            "score of the state must be that of the sparsifier, none, got Summed(): make the "
            "sparsifier with that one");
  same.load_state(plain.save_state());
}

}  // namespace
}  // namespace datasparse
