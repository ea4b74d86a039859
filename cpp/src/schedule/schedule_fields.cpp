// What a schedule is by its fields: whether they keep the rules, where it ends, what it equals, and
// how it is printed. No step of a training runs any of this.

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "datasparse/error.hpp"
#include "datasparse/schedule.hpp"
#include "schedule/schedule_impl.hpp"

namespace datasparse {

using namespace schedules;

namespace {

using MaybeStep = std::optional<std::int64_t>;

struct End {
  MaybeStep operator()(const Constant&) const { return 0; }
  MaybeStep operator()(const Step& s) const { return powers_end(s.gamma, s.step_size); }
  MaybeStep operator()(const MultiStep& s) const { return s.milestones.back(); }
  MaybeStep operator()(const Exponential& s) const { return powers_end(s.gamma, s.every); }
  MaybeStep operator()(const Ramp& s) const { return s.end; }
  MaybeStep operator()(const Cyclic&) const { return std::nullopt; }
  MaybeStep operator()(const OneShot& s) const { return s.at; }
  MaybeStep operator()(const Piecewise& s) const { return s.values.back().first; }
  MaybeStep operator()(const Lambda&) const { return std::nullopt; }
  MaybeStep operator()(const Sequential& s) const {
    const auto last = s.schedules.back().end();
    const std::int64_t from = s.milestones.empty() ? 0 : s.milestones.back();
    if (!last || *last > std::numeric_limits<std::int64_t>::max() - from) return std::nullopt;
    return from + *last;
  }
  MaybeStep operator()(const Product& s) const {
    std::int64_t latest = 0;
    for (const auto& factor : s.schedules) {
      const auto end = factor.end();
      if (!end) return std::nullopt;
      latest = std::max(latest, *end);
    }
    return latest;
  }
  MaybeStep operator()(const Clamp& s) const { return s.schedule.end(); }
  MaybeStep operator()(const Round& s) const { return s.schedule.end(); }

 private:
  /// Of the powers of gamma, of which the first after 1 comes at step `first`.
  static MaybeStep powers_end(double gamma, std::int64_t first) {
    if (gamma == 1) return 0;
    return gamma == 0 ? MaybeStep(first) : std::nullopt;
  }
};

/// Schedule::is_of_integers().
struct OfIntegers {
  bool operator()(const Constant& s) const { return whole(s.value); }
  bool operator()(const Step& s) const { return is_integer(s.gamma); }
  bool operator()(const MultiStep& s) const { return is_integer(s.gamma); }
  bool operator()(const Exponential& s) const { return is_integer(s.gamma); }
  bool operator()(const Ramp& s) const { return whole(s.initial) && whole(s.final); }
  bool operator()(const Cyclic& s) const { return whole(s.low) && whole(s.high); }
  bool operator()(const OneShot& s) const { return whole(s.before) && whole(s.value); }
  bool operator()(const Piecewise& s) const {
    return std::all_of(s.values.begin(), s.values.end(),
                       [](const auto& item) { return whole(item.second); });
  }
  bool operator()(const Lambda&) const { return false; }
  bool operator()(const Sequential& s) const { return all(s.schedules); }
  bool operator()(const Product& s) const { return all(s.schedules); }
  bool operator()(const Clamp& s) const {
    return s.schedule.is_of_integers() && whole(s.low) && whole(s.high);
  }
  bool operator()(const Round&) const { return true; }

 private:
  static bool whole(const Level& level) { return !level || is_integer(*level); }
  static bool all(const std::vector<Schedule>& parts) {
    return std::all_of(parts.begin(), parts.end(),
                       [](const Schedule& part) { return part.is_of_integers(); });
  }
};

// --- the rules of the arguments -----------------------------------------------------------------

[[noreturn]] void refuse(const char* name, const std::string& rule, const ParamValue& value) {
  throw ValueError(std::string(name) + " must " + rule + ", got " + to_string(value));
}

void at_least(std::int64_t minimum, const char* name, std::int64_t value) {
  if (value < minimum) refuse(name, "be at least " + std::to_string(minimum), value);
}

void finite(const char* name, const Level& level) {
  if (level && !std::isfinite(*level)) refuse(name, "be finite", *level);
}

void factor(double gamma) {
  if (!(std::isfinite(gamma) && gamma >= 0)) refuse("gamma", "be finite and at least 0", gamma);
}

void in_order(const Level& low, const Level& high) {
  finite("low", low);
  finite("high", high);
  if (low && high && *low > *high) {
    throw ValueError("low must be at most high, got " + to_string(ParamValue(*low)) + " and " +
                     to_string(ParamValue(*high)));
  }
}

void increasing(const char* name, const std::vector<std::int64_t>& steps, std::int64_t minimum) {
  const auto wrong = std::adjacent_find(steps.begin(), steps.end(), std::greater_equal<>());
  if ((!steps.empty() && steps.front() < minimum) || wrong != steps.end()) {
    refuse(name, "increase, from " + std::to_string(minimum) + " or above", steps);
  }
}

struct Check {
  void operator()(const Constant& s) const { finite("value", s.value); }
  void operator()(const Step& s) const {
    at_least(1, "step_size", s.step_size);
    factor(s.gamma);
  }
  void operator()(const MultiStep& s) const {
    if (s.milestones.empty()) refuse("milestones", "hold one step at least", s.milestones);
    increasing("milestones", s.milestones, 0);
    factor(s.gamma);
  }
  void operator()(const Exponential& s) const {
    factor(s.gamma);
    at_least(1, "every", s.every);
  }
  void operator()(const Ramp& s) const {
    finite("initial", s.initial);
    finite("final", s.final);
    at_least(0, "begin", s.begin);
    if (s.end < s.begin) refuse("end", "be at least begin, " + std::to_string(s.begin), s.end);
    at_least(1, "every", s.every);
  }
  void operator()(const Polynomial& s) const {
    (*this)(static_cast<const Ramp&>(s));
    if (!(std::isfinite(s.power) && s.power > 0)) {
      refuse("power", "be finite and above 0", s.power);
    }
  }
  void operator()(const Cyclic& s) const {
    in_order(s.low, s.high);
    at_least(2, "period", s.period);
  }
  void operator()(const OneShot& s) const {
    at_least(0, "at", s.at);
    finite("before", s.before);
    finite("value", s.value);
  }
  void operator()(const Piecewise& s) const {
    std::vector<std::int64_t> steps;
    for (const auto& [step, value] : s.values) {
      steps.push_back(step);
      finite("values", value);
    }
    if (steps.empty()) refuse("values", "hold one step at least", steps);
    increasing("the steps of values", steps, 0);
  }
  void operator()(const Lambda& s) const {
    if (!s.function) throw TypeError("fn must be a function, got none");
  }
  void operator()(const Sequential& s) const {
    if (s.schedules.size() != s.milestones.size() + 1) {
      throw ValueError("milestones must be one fewer than schedules, got " +
                       std::to_string(s.milestones.size()) + " for " +
                       std::to_string(s.schedules.size()));
    }
    increasing("milestones", s.milestones, 1);
  }
  void operator()(const Product& s) const {
    if (s.schedules.empty()) throw ValueError("schedules must hold one at least, got none");
  }
  void operator()(const Clamp& s) const { in_order(s.low, s.high); }
  void operator()(const Round&) const {}
};

// --- what fields are for ------------------------------------------------------------------------

/// Calls visit(name, field) for all fields of a kind.
template <class Kind, class Visit, std::size_t... I>
void for_each_field(const Kind& kind, const Visit& visit, std::index_sequence<I...>) {
  static_assert(std::size(Kind::names) == sizeof...(I));
  const auto fields = kind.fields();
  (visit(Kind::names[I], std::get<I>(fields)), ...);
}
template <class Kind, class Visit>
void for_each_field(const Kind& kind, const Visit& visit) {
  constexpr auto count = std::tuple_size_v<decltype(kind.fields())>;
  for_each_field(kind, visit, std::make_index_sequence<count>());
}

struct Parts {
  const std::function<void(const Schedule&)>& visit;

  void operator()(const Sequential& s) const {
    std::for_each(s.schedules.begin(), s.schedules.end(), visit);
  }
  void operator()(const Product& s) const {
    std::for_each(s.schedules.begin(), s.schedules.end(), visit);
  }
  void operator()(const Clamp& s) const { visit(s.schedule); }
  void operator()(const Round& s) const { visit(s.schedule); }
  template <class Kind>
  void operator()(const Kind&) const {}
};

std::string text_of(std::int64_t number) { return std::to_string(number); }
std::string text_of(double number) { return to_string(ParamValue(number)); }
std::string text_of(const Level& level) { return level ? text_of(*level) : "None"; }
std::string text_of(const Schedule& schedule) { return to_string(schedule); }
template <class T>
std::string text_of(const std::vector<T>& items) {
  std::string text;
  for (const auto& item : items) text += (text.empty() ? "" : ", ") + text_of(item);
  return "[" + text + "]";
}
std::string text_of(const std::vector<std::pair<std::int64_t, Level>>& values) {
  std::string text;
  for (const auto& [step, value] : values) {
    text += (text.empty() ? "" : ", ") + text_of(step) + ": " + text_of(value);
  }
  return "{" + text + "}";
}

/// Mixes a hash into another: the finalizer of MurmurHash3.
void mix(std::size_t& hash, std::uint64_t value) {
  std::uint64_t h = std::uint64_t{hash} * 31 + value;
  h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdU;
  h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53U;
  hash = static_cast<std::size_t>(h ^ (h >> 33));
}
std::uint64_t hash_of(std::int64_t number) { return static_cast<std::uint64_t>(number); }
std::uint64_t hash_of(double number) { return std::hash<double>()(number); }
std::uint64_t hash_of(const Level& level) { return level ? hash_of(*level) : 1; }
std::uint64_t hash_of(const Schedule& schedule) { return schedule.hash(); }
std::uint64_t hash_of(const std::pair<std::int64_t, Level>& item) {
  std::size_t hash = 0;
  mix(hash, hash_of(item.first));
  mix(hash, hash_of(item.second));
  return hash;
}
template <class T>
std::uint64_t hash_of(const std::vector<T>& items) {
  std::size_t hash = items.size();
  for (const auto& item : items) mix(hash, hash_of(item));
  return hash;
}

}  // namespace

// --- Schedule -----------------------------------------------------------------------------------

Schedule::Schedule(Kind&& kind, Checked) {
  std::visit(Check(), kind);
  held_ = std::make_shared<Held>(Held{std::move(kind)});
  held_->of_integers = std::visit(OfIntegers(), held_->kind);
  for_each_part([this](const Schedule& part) {
    held_->depth = std::max(held_->depth, 1 + part.held_->depth);
    held_->size = std::min(held_->size + part.held_->size, max_size + 1);
  });
  if (held_->depth > max_depth) {
    throw ValueError("schedules must be nested at most " + std::to_string(max_depth) +
                     " deep, got " + std::to_string(held_->depth));
  }
  if (held_->size > max_size) {
    throw ValueError("a schedule must consist of at most " + std::to_string(max_size) +
                     " schedules, got more");
  }
}

void Schedule::for_each_part(const std::function<void(const Schedule&)>& visit) const {
  std::visit(Parts{visit}, kind());
}

std::optional<std::int64_t> Schedule::end() const { return std::visit(End(), kind()); }

std::size_t Schedule::hash() const {
  std::size_t hash = kind().index();
  std::visit(
      [&hash](const auto& held) {
        if constexpr (std::is_same_v<std::decay_t<decltype(held)>, Lambda>) {
          mix(hash, std::hash<const void*>()(held.identity.get()));
        } else {
          for_each_field(held,
                         [&hash](const char*, const auto& field) { mix(hash, hash_of(field)); });
        }
      },
      kind());
  return hash;
}

bool operator==(const Schedule& a, const Schedule& b) {
  if (a.held_ == b.held_) return true;
  if (a.kind().index() != b.kind().index()) return false;
  return std::visit(
      [&b](const auto& left) {
        using Kind = std::decay_t<decltype(left)>;
        const auto& right = std::get<Kind>(b.kind());
        if constexpr (std::is_same_v<Kind, Lambda>) {
          return left.identity == right.identity;
        } else {
          return left.fields() == right.fields();
        }
      },
      a.kind());
}

std::string to_string(const Schedule& schedule) {
  return std::visit(
      [](const auto& held) {
        using Kind = std::decay_t<decltype(held)>;
        std::string text;
        if constexpr (std::is_same_v<Kind, Lambda>) {
          text = held.label;
        } else if constexpr (std::is_same_v<Kind, Piecewise>) {
          text = text_of(held.values);
        } else {
          for_each_field(held, [&text](const char* name, const auto& field) {
            text += (text.empty() ? "" : ", ") + std::string(name) + "=" + text_of(field);
          });
        }
        return std::string(Kind::name) + "(" + text + ")";
      },
      schedule.kind());
}

}  // namespace datasparse
