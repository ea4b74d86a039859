// What searches over shards cost: rounds and bytes for tensors like those of a model.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "base/keys.hpp"
#include "shard_simulator.hpp"
#include "stress.hpp"

namespace datasparse {
namespace {

enum class Type { float32, bfloat16, float16 };

/// Normally distributed numbers, by sums: <random> gives others on other machines.
class Normal {
 public:
  explicit Normal(std::uint64_t seed) : random_(seed) {}
  double operator()() {
    // Marsaglia's polar method.
    for (;;) {
      const double x = 2 * random_.unit() - 1, y = 2 * random_.unit() - 1, r = x * x + y * y;
      if (r > 0 && r < 1) return x * std::sqrt(-2 * std::log(r) / r);
    }
  }

 private:
  Random random_;
};

std::uint64_t magnitude_key(double number, Type type) {
  auto narrow = static_cast<float>(std::abs(number));
  const std::uint32_t key = key_of<std::uint32_t>(narrow);
  const int step = type == Type::float32 ? 0 : type == Type::bfloat16 ? 16 : 13;
  if (step == 0) return key;
  return (std::uint64_t{key} + (std::uint64_t{1} << (step - 1))) >> step << step;
}

struct Model {
  std::vector<std::vector<double>> numbers;
  Type type;

  Model(std::size_t groups, std::size_t blocks, Type of, std::uint64_t seed, bool is_scaled)
      : numbers(groups), type(of) {
    Normal normal(seed);
    double scale = 1;
    for (auto& group : numbers) {
      if (is_scaled) scale = std::ldexp(1 + std::abs(normal()), static_cast<int>(seed++ % 5));
      for (std::size_t i = 0; i < blocks; ++i) group.push_back(scale * normal());
    }
  }
  void move(double by, std::uint64_t seed) {
    Normal normal(seed);
    for (auto& group : numbers) {
      for (double& number : group) number *= 1 + by * normal();
    }
  }
  ShardedGroups parts(std::size_t count) const {
    ShardedGroups all;
    Random random(1);
    for (const auto& group : numbers) {
      ShardKeys keys;
      for (const double number : group) keys.push_back(magnitude_key(number, type));
      all.groups.push_back(split_into(keys, count, Split::runs, random));
    }
    return all;
  }
};

std::vector<ShardSearch> searches_of(const Model& model, bool is_pool, double level, double least,
                                     double most) {
  std::vector<ShardSearch> searches;
  for (std::size_t g = 0; g < model.numbers.size(); ++g) {
    if (g == 0 || !is_pool) searches.emplace_back();
    ShardSearch& search = searches.back();
    const auto blocks = static_cast<std::int64_t>(model.numbers[g].size());
    search.groups.push_back(g);
    search.plan.members.push_back({blocks, 1,
                                   static_cast<std::int64_t>(least * static_cast<double>(blocks)),
                                   static_cast<std::int64_t>(most * static_cast<double>(blocks))});
    search.key_step = model.type == Type::float32 ? 0 : model.type == Type::bfloat16 ? 16 : 13;
    search.plan.budget += blocks;
  }
  for (ShardSearch& search : searches) {
    search.plan.budget = std::llround(level * static_cast<double>(search.plan.budget));
  }
  return searches;
}

struct Traffic {
  std::int64_t rounds = 0;
  std::size_t numbers = 0, most = 0;
};

Traffic run(std::vector<ShardSearch>& searches, const ShardedGroups& groups) {
  Traffic traffic;
  ShardSelection selection(searches);
  while (!selection.done()) {
    traffic.numbers += selection.size();
    traffic.most = std::max(traffic.most, selection.size());
    if (std::getenv("SHOW"))
      printf("   %zu searches %zu numbers\n", selection.questions().size(), selection.size());
    selection.tell(groups.answer(selection));
  }
  traffic.rounds = selection.rounds();
  for (std::size_t s = 0; s < searches.size(); ++s) searches[s].hints = selection.hints(s);
  return traffic;
}

void print(const std::string& what, const Traffic& traffic) {
  std::printf("%-50s %2lld rounds %7.1f KB, %6.1f KiB a round at the most\n", what.c_str(),
              static_cast<long long>(traffic.rounds), static_cast<double>(traffic.numbers) * 8e-3,
              static_cast<double>(traffic.most) / 128);
  std::fflush(stdout);
}

TEST(ShardTraffic, Table) {
  const std::size_t parts =
      std::getenv("PARTS") ? std::strtoul(std::getenv("PARTS"), nullptr, 10) : 2;
  const std::uint64_t seed =
      std::getenv("SEED") ? std::strtoul(std::getenv("SEED"), nullptr, 10) : 1;
  for (const Type type : {Type::float32, Type::bfloat16, Type::float16}) {
    for (const bool scaled : {false, true}) {
      const std::string name = std::string(type == Type::float32    ? "float32"
                                           : type == Type::bfloat16 ? "bfloat16"
                                                                    : "float16") +
                               (scaled ? " scaled" : "");
      struct Kind {
        const char* name;
        bool pool;
        double least, most;
      };
      const Kind kinds[] = {{"pool", true, 0, 1}, {"lone", false, 0, 1}, {"caps", true, 0.5, 0.95}};
      std::vector<std::vector<ShardSearch>> all;
      Model model(300, 32768, type, seed, scaled);
      auto groups = model.parts(parts);
      for (const Kind& kind : kinds) {
        all.push_back(searches_of(model, kind.pool, 0.9, kind.least, kind.most));
        print(name + " " + kind.name + ", cold", run(all.back(), groups));
        print(name + " " + kind.name + ", the same", run(all.back(), groups));
      }
      for (int step = 0; step < 3; ++step) {
        model.move(1e-4, seed + 100 + step);
        groups = model.parts(parts);
        for (std::size_t k = 0; k < 3; ++k)
          print(name + " " + kinds[k].name + ", moved by 1e-4", run(all[k], groups));
      }
      model.move(1e-2, seed + 200);
      groups = model.parts(parts);
      for (std::size_t k = 0; k < 3; ++k)
        print(name + " " + kinds[k].name + ", moved by 1e-2", run(all[k], groups));
      for (std::size_t k = 0; k < 3; ++k) {
        for (auto& search : all[k]) search.plan.budget += search.plan.budget / 100;
        print(name + " " + kinds[k].name + ", level 0.909", run(all[k], groups));
      }
    }
  }
}

}  // namespace
}  // namespace datasparse
