#include <iostream>
#include <memory>
#include <utility>
#include <vector>

#include "datasparse/datasparse.hpp"

namespace {

using namespace datasparse;

/// A scheduler of the consumer's own.
class Doubling : public BaseDataScheduler {
 public:
  explicit Doubling(std::shared_ptr<BaseDataSparsifier> sparsifier)
      : BaseDataScheduler(std::move(sparsifier), "sparsity_level") {}

  ParamMap get_schedule_param() override {
    ParamMap levels = base_param();
    for (const auto& [name, level] : base_param()) {
      levels.set(name, level.as_number(name) * (last_epoch() == 0 ? 1 : 2));
    }
    return levels;
  }
};

}  // namespace

int main() {
  std::vector<float> weights = {6, 1, 7, 2, 8, 3, 5, 4};
  BlockSpec spec;
  spec.sparsity_level = 0.25;
  spec.block_width = 1;
  const auto sparsifier = std::make_shared<DataNormSparsifier>(spec);
  sparsifier->add_data("weights", source_of(weights, {2, 4}));
  const auto scheduler = make_scheduler<Doubling>(sparsifier);
  sparsifier->step();
  scheduler->step();
  sparsifier->step();
  sparsifier->apply_mask();

  // An exception of the library's, and a type of its own inside std::any, pass its boundary.
  try {
    sparsifier->update_config("weights", {{"sparsity_level", 2}});
    return 1;
  } catch (const ValueError&) {
  }
  for (const float x : weights) std::cout << x << ' ';
  std::cout << version() << '\n';
}
