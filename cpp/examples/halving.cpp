// Trains a linear regression while a scheduler halves, after every epoch, the share of its weights
// that are kept at zero.

#include <algorithm>
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

using namespace datasparse;

/// Halves the sparsity level of every tensor.
class Halving : public BaseDataScheduler {
 public:
  explicit Halving(std::shared_ptr<BaseDataSparsifier> sparsifier)
      : BaseDataScheduler(std::move(sparsifier), "sparsity_level") {}

  ParamMap get_schedule_param() override {
    if (last_epoch() == 0) return base_param();
    ParamMap levels;
    for (const auto& [name, level] : get_last_param()) {
      levels.set(name, 0.5 * level.as_number(schedule_param(), name));
    }
    return levels;
  }
};

using Vector = std::vector<float>;

/// An input, and what a hidden linear rule makes of it.
struct Sample {
  Vector input;
  float target;
};

float dot(const Vector& a, const Vector& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0F);
}

std::vector<Sample> generate(std::size_t count, std::size_t features) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto draw = [&] {
    Vector vector(features);
    for (float& x : vector) x = normal(random);
    return vector;
  };
  const Vector rule = draw();
  std::vector<Sample> samples;
  for (std::size_t i = 0; i < count; ++i) {
    Vector input = draw();
    const float target = dot(rule, input);
    samples.push_back({std::move(input), target});
  }
  return samples;
}

/// One step of stochastic gradient descent; returns the squared error before it.
float descend(Vector& weights, const Sample& sample) {
  constexpr float rate = 0.002F;
  const float error = dot(weights, sample.input) - sample.target;
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] -= rate * error * sample.input[i];
  return error * error;
}

}  // namespace

int main() {
  constexpr std::int64_t features = 256, block_width = 4, blocks = features / block_width;
  const std::vector<Sample> samples = generate(500, features);
  Vector weights(features);

  BlockSpec spec;
  spec.sparsity_level = 0.75;
  spec.block_width = block_width;
  const auto sparsifier = std::make_shared<DataNormSparsifier>(spec);
  sparsifier->add_data("weights", ArrayView(weights.data(), {features}));
  const auto scheduler = make_scheduler<Halving>(sparsifier);

  bool as_scheduled = true;
  double level = spec.sparsity_level;
  std::puts("epoch     level  zeros    loss");
  for (int epoch = 0; epoch < 6; ++epoch, level *= 0.5) {
    float loss = 0;
    for (const Sample& sample : samples) {
      loss += descend(weights, sample);
      sparsifier->step();
      sparsifier->apply_mask();
    }
    const auto zeros = std::count(weights.begin(), weights.end(), 0.0F);
    std::printf("%5d  %8.6f  %5d  %6.1f\n", epoch, level, static_cast<int>(zeros),
                static_cast<double>(loss) / static_cast<double>(samples.size()));

    as_scheduled &= zeros == block_width * std::llrint(level * blocks);
    scheduler->step();
  }
  return as_scheduled ? 0 : 1;
}
