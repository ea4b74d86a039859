// Trains a linear regression while a scheduler halves the share of its weights that is pruned.

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "datasparse/datasparse.hpp"

namespace {

using datasparse::BaseDataScheduler;
using datasparse::BaseDataSparsifier;
using datasparse::ParamMap;

/// Halves every group's sparsity level at each step.
class Halving : public BaseDataScheduler {
 public:
  explicit Halving(std::shared_ptr<BaseDataSparsifier> sparsifier)
      : BaseDataScheduler(std::move(sparsifier), "sparsity_level") {}

  ParamMap get_schedule_param() override {
    if (last_epoch() == 0) return base_param();
    ParamMap levels;
    for (const auto& [name, level] : data_sparsifier()->get_param("sparsity_level")) {
      levels.set(name, 0.5 * level.as_number(name));
    }
    return levels;
  }
};

constexpr std::size_t features = 64;
constexpr std::int64_t block_width = 4;
using Vector = std::array<float, features>;

float dot(const Vector& a, const Vector& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0F);
}

/// An input, and what a hidden linear rule makes of it.
struct Sample {
  Vector input;
  float target;
};

std::vector<Sample> generate(std::size_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto fill = [&](Vector& vector) {
    for (float& x : vector) x = normal(random);
  };
  Vector rule;
  fill(rule);
  std::vector<Sample> samples(count);
  for (auto& [input, target] : samples) {
    fill(input);
    target = dot(rule, input) + 0.1F * normal(random);
  }
  return samples;
}

/// One step of gradient descent on the squared error; returns that error.
float descend(Vector& weights, const Sample& sample, float rate) {
  const float error = dot(weights, sample.input) - sample.target;
  for (std::size_t i = 0; i < features; ++i) weights[i] -= rate * error * sample.input[i];
  return error * error;
}

}  // namespace

int main() {
  const auto samples = generate(500);
  Vector weights{};

  datasparse::BlockSpec spec;
  spec.sparsity_level = 0.75;
  spec.block_width = block_width;
  const auto sparsifier = std::make_shared<datasparse::DataNormSparsifier>(spec);
  sparsifier->add_data("weights", datasparse::ArrayView(weights.data(), {features}));
  const auto scheduler = datasparse::make_scheduler<Halving>(sparsifier);

  bool as_scheduled = true;
  std::puts("epoch     level  zeros      loss");
  for (int epoch = 0; epoch < 6; ++epoch) {
    const double level = 0.75 / std::pow(2, epoch);
    double loss = 0;
    for (const Sample& sample : samples) {
      loss += static_cast<double>(descend(weights, sample, 0.005F));
      sparsifier->step();
      sparsifier->apply_mask();
    }
    const auto zeros = sparsifier->get_mask("weights").zeros();
    std::printf("%5d  %8.6f  %5d  %8.3f\n", epoch, level, static_cast<int>(zeros),
                loss / static_cast<double>(samples.size()));

    const double blocks = static_cast<double>(features) / block_width;
    as_scheduled &= zeros == block_width * std::llrint(level * blocks);
    scheduler->step();
  }
  return as_scheduled ? 0 : 1;
}
