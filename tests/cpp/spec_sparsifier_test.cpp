#include "datasparse/spec_sparsifier.hpp"

#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "datasparse/group_params.hpp"
#include "pretended_device.hpp"
#include "support.hpp"

namespace outliers {

using namespace datasparse;

/// A rule with a score of its own: what is nearest to the mean of its tensor is pruned.
struct Spec {
  double share = 0.5;
  std::int64_t spared = 0;
  std::int64_t width = 1;

  static const Fields<Spec>& fields() {
    static const Fields<Spec> all{share_field<&Spec::share>("share"),
                                  count_field<&Spec::spared>("spared", {true}),
                                  count_field<&Spec::width>("width", {true})};
    return all;
  }
  void check(const std::string& group) const { check_fields(*this, group); }
  Spec resolved(const Axes&, const std::string&) const { return *this; }

  BlockSpec blocks() const {
    BlockSpec spec;
    spec.sparsity_level = share;
    spec.block_width = width;
    spec.min_kept = spared;
    return spec;
  }
};

ZeroCount count_zeros(const Axes& shape, const Spec& spec) {
  return datasparse::count_zeros(shape, spec.blocks());
}

void compute_masks(const std::vector<JobOf<Spec>>& jobs) {
  std::vector<std::vector<float>> scores;
  std::vector<JobOf<BlockSpec>> ranked;
  for (const auto& job : jobs) {
    const auto* const values = static_cast<const float*>(job.data.data());
    const std::int64_t n = job.data.size();
    const float mean = std::accumulate(values, values + n, 0.0F) / static_cast<float>(n);
    scores.emplace_back(values, values + n);
    for (float& score : scores.back()) score = std::abs(score - mean);
    ranked.push_back(job.with(job.spec.blocks()));
    ranked.back().data = ArrayView(scores.back().data(), job.data.shape());
    ranked.back().kept_zeros = nullptr;  // the rule of a Spec prunes these behind this function
  }
  cpu().compute(ranked);
}

class Sparsifier final : public SpecSparsifier<Spec> {
 public:
  using SpecSparsifier::SpecSparsifier;

 protected:
  ForeignHooks foreign_hooks() const override { return {false, false}; }
};

/// One whose last scores fail.
class Failing final : public SpecSparsifier<Spec> {
 protected:
  ForeignHooks foreign_hooks() const override { return {false, false, own_scores}; }
  std::shared_ptr<DataSource> get_scores(const std::string& name, const ArrayView& data,
                                         const ParamMap&) override {
    if (name == "last") throw std::runtime_error("no scores");
    return make_source(data);
  }
};

}  // namespace outliers

namespace datasparse {
namespace {

class OwnSpec : public ::testing::Test {
 protected:
  OwnSpec() { sparsifier.add_data("a", ArrayView(a, {2, 3}), {{"share", 0.5}}); }

  float a[6] = {10, 11, 9, 10.5F, 30, -10};  // the mean is 10.08
  outliers::Sparsifier sparsifier;
};

TEST_F(OwnSpec, ScoreOfItsOwnIsRankedAndApplied) {
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{0, 0, 1, 0, 1, 1}));
  sparsifier.apply_mask();
  EXPECT_EQ(a[0], 0);
  EXPECT_EQ(a[4], 30);
}

TEST_F(OwnSpec, KeysAreCheckedShownAndPlannedByTheTable) {
  EXPECT_EQ(sparsifier.config("a"), (ParamMap{{"share", 0.5}}));
  EXPECT_EQ(message_of<ValueError>([&] { sparsifier.update_config("a", {{"share", 2.0}}); }),
            "share of 'a' must be in [0, 1], got 2.0");
  EXPECT_EQ(message_of<TypeError>([&] { sparsifier.update_config("a", {{"shore", 0.1}}); }),
            "unknown config key 'shore' of 'a'; did you mean 'share'?");
  EXPECT_EQ(message_of<ValueError>([&] { GroupParams(sparsifier).erase("a", "share"); }),
            "share of 'a' is missing");
  sparsifier.update_config("a", {{"spared", 5.0}});
  EXPECT_EQ(sparsifier.config("a").at("spared"), 5) << "an integer is shown as one";
  EXPECT_EQ(GroupParams(sparsifier).count_zeros("share", {{"a", 1.0}}).groups,
            (std::vector<ZeroCount>{{1, 1}}));
  EXPECT_TRUE(sparsifier.is_integer_param("spared"));
  EXPECT_FALSE(sparsifier.is_integer_param("share"));
}

TEST_F(OwnSpec, SchedulerWritesItsKeys) {
  GroupParams(sparsifier).set("share", {{"a", 0.99}});
  sparsifier.step();
  EXPECT_EQ(sparsifier.get_mask("a").zeros(), 6);
  EXPECT_THROW(GroupParams(sparsifier).set("share", {{"a", -1.0}}), ValueError);
  EXPECT_EQ(sparsifier.config_value("a", "share"), 0.99);
}

TEST_F(OwnSpec, LayoutsAndKeptZerosAreSeenTo) {
  float b[4] = {1, 2, 0, 40};
  GroupOptions options;
  options.layout = Axes{1, 0};
  options.keep_zeros = true;
  sparsifier.add_data("b", make_source(ArrayView(b, {2, 2})), {{"width", 2}}, true, nullptr,
                      options);
  sparsifier.step();  // of the columns (1, 0) and (2, 40), the first is nearer to the mean of 10.75
  EXPECT_EQ(bytes_of(sparsifier.get_mask("b")), (Bytes{0, 1, 0, 1}));
  GroupParams(sparsifier).set("share", {{"b", 0.0}});
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("b")), (Bytes{1, 1, 0, 1})) << "a zero that stays";
}

TEST_F(OwnSpec, UpdateMaskTakesOtherScores) {
  float scores[6] = {0, 100, 100, 100, 100, 0};
  sparsifier.update_mask("a", ArrayView(scores, {2, 3}), {{"share", 0.4}});
  EXPECT_EQ(sparsifier.get_mask("a").zeros(), 2);
  EXPECT_THROW(sparsifier.update_mask("a", ArrayView(scores, {6}), {{"share", 0.4}}), ValueError);
}

TEST(OwnSpecByScores, BringsBackMasksThatItHasChanged) {
  std::vector<float> values((std::size_t{2} << 20) + 1);
  values[0] = 1;
  outliers::Failing sparsifier;
  const auto size = static_cast<std::int64_t>(values.size());
  sparsifier.add_data("first", ArrayView(values.data(), {size}));
  sparsifier.add_data("last", ArrayView(values.data(), {size}));
  EXPECT_THROW(sparsifier.step(), std::runtime_error);
  EXPECT_EQ(sparsifier.get_mask("first").zeros(), 0);
}

TEST(OwnSpecOnADevice, IsRefusedWhereItIsNotTheCpu) {
  PretendedDevice elsewhere;
  outliers::Sparsifier sparsifier;
  sparsifier.add_data("b", std::make_shared<Placed>(elsewhere.store({1, 2}, {2}), elsewhere));
  EXPECT_THROW(sparsifier.step(), TypeError);
}

}  // namespace
}  // namespace datasparse
