// Stops a training after half of its steps, resumes it from a checkpoint, and compares the end with
// that of a training which was never stopped.

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "datasparse/datasparse.hpp"

namespace {

using namespace datasparse;

/// Prunes more whenever the loss has fallen: its next level depends on what it has seen.
class Adaptive : public BaseDataScheduler {
 public:
  explicit Adaptive(std::shared_ptr<BaseDataSparsifier> sparsifier)
      : BaseDataScheduler(std::move(sparsifier), "sparsity_level") {}

  void observe(double loss) {
    if (loss < best_loss_) {
      best_loss_ = loss;
      level_ += 0.5 * (0.9 - level_);
    }
  }

  ParamMap get_schedule_param() override {
    ParamMap levels;
    for (const auto& item : base_param()) levels.set(item.first, level_);
    return levels;
  }

  Attributes attributes() const override { return {{"best_loss", best_loss_}, {"level", level_}}; }
  std::function<void()> prepare_attributes(const Attributes& saved) override {
    const double best_loss = attribute<double>(saved, "best_loss");
    const double level = attribute<double>(saved, "level");
    return [this, best_loss, level] {
      best_loss_ = best_loss;
      level_ = level;
    };
  }

 private:
  double best_loss_ = 1e300;
  double level_ = 0;
};

/// Pulls its weights towards a target, with noise that depends on nothing but the step.
struct Training {
  Training() {
    sparsifier->add_data("weights", ArrayView(weights.data(), {size}));
    scheduler = make_scheduler<Adaptive>(sparsifier);
  }

  void step(unsigned number) {
    std::mt19937 random(number);
    std::normal_distribution<float> noise;
    double loss = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const float error = static_cast<float>(i % 7) - weights[i];
      weights[i] += 0.1F * error + 0.01F * noise(random);
      loss += static_cast<double>(error) * static_cast<double>(error);
    }
    sparsifier->step();
    sparsifier->apply_mask();
    scheduler->observe(loss);
    scheduler->step();
  }

  static constexpr std::int64_t size = 1000;
  std::vector<float> weights = std::vector<float>(size);
  std::shared_ptr<DataNormSparsifier> sparsifier = std::make_shared<DataNormSparsifier>();
  std::shared_ptr<Adaptive> scheduler;
};

}  // namespace

int main() {
  constexpr unsigned steps = 40;
  const std::string path =
      (std::filesystem::temp_directory_path() / "datasparse-resume.safetensors").string();

  Training unbroken, stopped, resumed;
  for (unsigned i = 0; i < steps; ++i) unbroken.step(i);

  for (unsigned i = 0; i < steps / 2; ++i) stopped.step(i);
  save_checkpoint(path, *stopped.sparsifier, {stopped.scheduler.get()});

  resumed.weights = stopped.weights;  // a trainer saves them in a file of its own
  load_checkpoint(path, *resumed.sparsifier, {resumed.scheduler.get()});
  for (unsigned i = steps / 2; i < steps; ++i) resumed.step(i);
  std::filesystem::remove(path);

  const bool same = resumed.weights == unbroken.weights;
  std::printf("%lld of %lld weights are zero; the weights are %s\n",
              static_cast<long long>(resumed.sparsifier->get_mask("weights").zeros()),
              static_cast<long long>(Training::size), same ? "the same" : "others");
  return same ? 0 : 1;
}
