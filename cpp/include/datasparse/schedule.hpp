/// Schedules: what a parameter is at each step, as values that are never changed.
///
///     const Schedule level = schedules::Polynomial{{0.0, 0.9, 0, 1000, 100}};
///     level(500, 0.5);  // 0.7875, whatever the group's own value
///
/// A schedule is a pure function of the step, counted in whatever the user steps (batches or
/// epochs), and of the group's base value. A Level that holds nothing stands for that base value.
/// Schedules nest. They are compared, hashed and printed by what they hold.
///
/// The same numbers come out on every machine: nothing but IEEE arithmetic is used, and integer
/// powers are products. The one exception is a Polynomial whose power is no integer: std::pow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/param.hpp"

namespace datasparse {

/// A finite number; nothing for the group's base value.
using Level = std::optional<double>;

namespace schedules {
struct Constant;
struct Step;
struct MultiStep;
struct Exponential;
struct Linear;
struct Polynomial;
struct Cosine;
struct Cyclic;
struct OneShot;
struct Piecewise;
struct Lambda;
struct Sequential;
struct Product;
struct Clamp;
struct Round;
}  // namespace schedules

/// Whether T is one of them; also while they are declared only.
template <class T, class... Kinds>
constexpr bool is_one_of(std::variant<Kinds...>*) {
  return (std::is_same_v<T, Kinds> || ...);
}

/// Any of the schedules below. Copying one copies a pointer; all calls are thread-safe.
class DATASPARSE_API Schedule {
 public:
  using Kind = std::variant<schedules::Constant, schedules::Step, schedules::MultiStep,
                            schedules::Exponential, schedules::Linear, schedules::Polynomial,
                            schedules::Cosine, schedules::Cyclic, schedules::OneShot,
                            schedules::Piecewise, schedules::Lambda, schedules::Sequential,
                            schedules::Product, schedules::Clamp, schedules::Round>;

  /// How deep schedules may nest, and of how many one may consist, so that whatever walks through
  /// one comes to an end soon.
  static constexpr int max_depth = 100;
  static constexpr int max_size = 10000;

  /// ValueError, naming the argument, where one breaks its rule; for too many, nested too deep.
  template <class T, class = std::enable_if_t<is_one_of<T>(static_cast<Kind*>(nullptr))>>
  Schedule(T kind) : Schedule(Kind(std::move(kind)), Checked()) {}

  /// The value at a step. ValueError for a negative step. O(the number of schedules in it).
  double operator()(std::int64_t step, double base) const;
  /// The same for a value of a config. It is an integer, rounded half to even, where the base is
  /// one and the schedule is_of_integers(), or where the key is said to be one of integers; else it
  /// is a float. TypeError, with a message that begins with label(key, group), for a base that is
  /// no number; ValueError for integers beyond 2^53.
  ParamValue operator()(std::int64_t step, const ParamValue& base, const std::string& key,
                        const std::string& group, bool integer_key = false) const;

  /// Whether it leads an integer from one integer to another, so that rounding what lies between
  /// loses nothing that was asked for: every level in it is a whole number, or the base value, and
  /// so is every factor. A Round is, whatever it holds; a Lambda is not, since it may return
  /// anything. O(1).
  bool is_of_integers() const noexcept;

  /// The step from which on the value stays what it is; nothing where it may change for ever.
  std::optional<std::int64_t> end() const;

  const Kind& kind() const noexcept;
  /// Calls visit(part) for the schedules that this one is made of, not for theirs in turn.
  void for_each_part(const std::function<void(const Schedule&)>& visit) const;
  /// Whether no copy of this schedule shares what it holds: what a garbage collector asks.
  bool unique() const noexcept { return held_.use_count() == 1; }
  std::size_t hash() const;

  friend DATASPARSE_API bool operator==(const Schedule& a, const Schedule& b);
  friend bool operator!=(const Schedule& a, const Schedule& b) { return !(a == b); }

 private:
  struct Held;
  struct Checked {};
  Schedule(Kind&& kind, Checked);

  std::shared_ptr<Held> held_;  // const once it is made
};

/// As Python would write it: Step(step_size=10, gamma=0.5).
DATASPARSE_API std::string to_string(const Schedule& schedule);

namespace schedules {

// Each has a name, and fields with names: what equality, hashes, printing and bindings go by.

/// The same value at every step.
struct Constant {
  Level value = std::nullopt;

  static constexpr const char* name = "Constant";
  static constexpr const char* names[] = {"value"};
  auto fields() const { return std::tie(value); }
};

/// base × gamma^⌊step / step_size⌋. step_size is at least 1, gamma at least 0.
struct Step {
  std::int64_t step_size = 0;
  double gamma = 1;

  static constexpr const char* name = "Step";
  static constexpr const char* names[] = {"step_size", "gamma"};
  auto fields() const { return std::tie(step_size, gamma); }
};

/// base × gamma^(milestones reached), one at least. They increase, from 0 or above.
struct MultiStep {
  std::vector<std::int64_t> milestones;
  double gamma = 1;

  static constexpr const char* name = "MultiStep";
  static constexpr const char* names[] = {"milestones", "gamma"};
  auto fields() const { return std::tie(milestones, gamma); }
};

/// base × gamma^(every × ⌊step / every⌋): by gamma a step, held between updates.
struct Exponential {
  double gamma = 1;
  std::int64_t every = 1;

  static constexpr const char* name = "Exponential";
  static constexpr const char* names[] = {"gamma", "every"};
  auto fields() const { return std::tie(gamma, every); }
};

/// From `initial`, up to and at `begin`, to `final`, from `end` on. Between, the value is updated
/// `every` steps, counted from `begin`, and held. Where it ends at the step at which it begins, it
/// jumps: `initial` before that step, and `final` from it on. 0 <= begin <= end, every >= 1.
struct Ramp {
  Level initial = 0.0;
  Level final = std::nullopt;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t every = 1;
};

/// A straight ramp: the share of the way is t = (step − begin) / (end − begin).
struct Linear : Ramp {
  static constexpr const char* name = "Linear";
  static constexpr const char* names[] = {"initial", "final", "begin", "end", "every"};
  auto fields() const { return std::tie(initial, final, begin, end, every); }
};

/// A ramp that is steep at first: 1 − (1 − t)^power. power is above 0. Equation (1) of Zhu and
/// Gupta, "To prune, or not to prune" (2017), where it is 3.
struct Polynomial : Ramp {
  double power = 3;

  static constexpr const char* name = "Polynomial";
  static constexpr const char* names[] = {"initial", "final", "begin", "end", "every", "power"};
  auto fields() const { return std::tie(initial, final, begin, end, every, power); }
};

/// A ramp that is gentle at both ends: (1 − cos πt) / 2, as in Loshchilov and Hutter, "SGDR"
/// (2017).
struct Cosine : Ramp {
  static constexpr const char* name = "Cosine";
  static constexpr const char* names[] = {"initial", "final", "begin", "end", "every"};
  auto fields() const { return std::tie(initial, final, begin, end, every); }
};

/// Up from `low` to `high` and down again in `period` steps, 2 or more, for ever: the triangle of
/// Smith, "Cyclical learning rates" (2017). low <= high where both are numbers.
struct Cyclic {
  Level low = std::nullopt, high = std::nullopt;
  std::int64_t period = 0;

  static constexpr const char* name = "Cyclic";
  static constexpr const char* names[] = {"low", "high", "period"};
  auto fields() const { return std::tie(low, high, period); }
};

/// `before`, and from step `at`, 0 or above, on `value`.
struct OneShot {
  std::int64_t at = 0;
  Level before = 0.0;
  Level value = std::nullopt;

  static constexpr const char* name = "OneShot";
  static constexpr const char* names[] = {"at", "before", "value"};
  auto fields() const { return std::tie(at, before, value); }
};

/// Each value from its step on, the base value before the first. One at least; the steps increase,
/// from 0 or above.
struct Piecewise {
  std::vector<std::pair<std::int64_t, Level>> values;

  static constexpr const char* name = "Piecewise";
  static constexpr const char* names[] = {"values"};
  auto fields() const { return std::tie(values); }
};

/// base × function(step). The function must be pure. Equal to its copies only, unless a binding
/// gives the same `identity` to two.
struct Lambda {
  explicit Lambda(std::function<double(std::int64_t)> fn)
      : function(std::move(fn)), identity(std::make_shared<char>()) {}
  Lambda(std::function<double(std::int64_t)> fn, std::shared_ptr<const void> same, std::string as)
      : function(std::move(fn)), identity(std::move(same)), label(std::move(as)) {}

  std::function<double(std::int64_t)> function;
  std::shared_ptr<const void> identity;
  std::string label = "<function>";  ///< how it is printed

  static constexpr const char* name = "Lambda";
};

/// One schedule after another: each begins at its milestone, and counts from there. There is one
/// milestone fewer than there are schedules; they increase, from 1 or above.
struct Sequential {
  std::vector<Schedule> schedules;
  std::vector<std::int64_t> milestones;

  static constexpr const char* name = "Sequential";
  static constexpr const char* names[] = {"schedules", "milestones"};
  auto fields() const { return std::tie(schedules, milestones); }
};

/// The value of the first, times those of the others, one at least in all. The base value counts
/// once: the others are factors, for which it is 1.
struct Product {
  std::vector<Schedule> schedules;

  static constexpr const char* name = "Product";
  static constexpr const char* names[] = {"schedules"};
  auto fields() const { return std::tie(schedules); }
};

/// Not below `low`, and not above `high`, which wins where base values make them cross. low <= high
/// where both are numbers.
struct Clamp {
  Schedule schedule;
  Level low = std::nullopt, high = std::nullopt;

  static constexpr const char* name = "Clamp";
  static constexpr const char* names[] = {"schedule", "low", "high"};
  auto fields() const { return std::tie(schedule, low, high); }
};

/// To the nearest integer, half to even.
struct Round {
  Schedule schedule;

  static constexpr const char* name = "Round";
  static constexpr const char* names[] = {"schedule"};
  auto fields() const { return std::tie(schedule); }
};

}  // namespace schedules
}  // namespace datasparse
