#include "datasparse/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "datasparse/error.hpp"

namespace datasparse {

using namespace schedules;

namespace {

constexpr double integer_max = 9007199254740992.0;  // 2^53: every integer up to it is a double

// --- arithmetic that is the same everywhere -----------------------------------------------------

/// x^n by repeated squaring. std::pow may differ in the last bit from one C library to the next.
double power_of(double x, std::int64_t n) {
  double result = 1;
  for (; n > 0; n /= 2) {
    if (n % 2 != 0) result *= x;
    x *= x;
  }
  return result;
}

bool is_integer(double x) { return std::abs(x) <= integer_max && x == std::trunc(x); }

double power_of(double x, double n) {
  return is_integer(n) ? power_of(x, static_cast<std::int64_t>(n)) : std::pow(x, n);
}

/// sin(pi x) for |x| <= 1/4, by its Taylor series, which is exact to the last bit or two.
double sine_of_pi(double x) {
  constexpr double pi = 3.141592653589793;
  const double angle = pi * x, square = angle * angle;
  double sum = 1;
  for (int k = 18; k >= 2; k -= 2) sum = 1 - sum * square / (k * (k + 1));
  return angle * sum;
}

/// (1 - cos(pi t)) / 2 for t in [0, 1]; 0, 1/2 and 1 are met exactly.
double half_cosine(double t) {
  if (t > 0.5) return 1 - half_cosine(1 - t);
  if (t >= 0.25) return 0.5 - 0.5 * sine_of_pi(0.5 - t);
  const double sine = sine_of_pi(0.5 * t);
  return sine * sine;
}

/// Half to even, whatever the rounding mode.
double rounded(double x) {
  if (!(std::abs(x) < integer_max)) return x;  // an integer already, or no number
  const double below = std::floor(x), rest = x - below;
  const bool up = rest > 0.5 || (rest == 0.5 && std::fmod(below, 2) != 0);
  return up ? below + 1 : below;
}

// --- values -------------------------------------------------------------------------------------

std::int64_t reached(const std::vector<std::int64_t>& milestones, std::int64_t step) {
  return std::upper_bound(milestones.begin(), milestones.end(), step) - milestones.begin();
}

/// The way from `initial` to `final`, of which progress(done, left) in [0, 1] lies behind: `done`
/// and `left` are shares of the time.
template <class Progress>
double along(const Ramp& ramp, std::int64_t step, double base, const Progress& progress) {
  const double initial = ramp.initial.value_or(base), final = ramp.final.value_or(base);
  if (step <= ramp.begin) return initial;
  if (step >= ramp.end) return final;
  const std::int64_t steps = ramp.end - ramp.begin;
  const std::int64_t updated = (step - ramp.begin) / ramp.every * ramp.every;
  const auto share = [steps](std::int64_t n) {
    return static_cast<double>(n) / static_cast<double>(steps);
  };
  const double value =
      initial + (final - initial) * progress(share(updated), share(steps - updated));
  return std::clamp(value, std::min(initial, final), std::max(initial, final));  // of rounding
}

struct Value {
  std::int64_t step;
  double base;

  double operator()(const Constant& s) const { return s.value.value_or(base); }
  double operator()(const Step& s) const { return base * power_of(s.gamma, step / s.step_size); }
  double operator()(const MultiStep& s) const {
    return base * power_of(s.gamma, reached(s.milestones, step));
  }
  double operator()(const Exponential& s) const {
    return base * power_of(s.gamma, step / s.every * s.every);
  }
  double operator()(const Linear& s) const {
    return along(s, step, base, [](double done, double) { return done; });
  }
  double operator()(const Polynomial& s) const {
    return along(s, step, base, [&s](double, double left) { return 1 - power_of(left, s.power); });
  }
  double operator()(const Cosine& s) const {
    return along(s, step, base, [](double done, double) { return half_cosine(done); });
  }
  double operator()(const Cyclic& s) const {
    const double low = s.low.value_or(base), high = s.high.value_or(base);
    const std::int64_t within = step % s.period;
    const std::int64_t from_low = std::min(within, s.period - within);
    const double height = static_cast<double>(from_low) / (static_cast<double>(s.period) / 2);
    return height == 1 ? high : low + (high - low) * height;
  }
  double operator()(const OneShot& s) const {
    return (step < s.at ? s.before : s.value).value_or(base);
  }
  double operator()(const Piecewise& s) const {
    const auto next =
        std::upper_bound(s.values.begin(), s.values.end(), step,
                         [](std::int64_t now, const auto& item) { return now < item.first; });
    return next == s.values.begin() ? base : std::prev(next)->second.value_or(base);
  }
  double operator()(const Lambda& s) const { return base * s.function(step); }
  double operator()(const Sequential& s) const {
    const auto current = static_cast<std::size_t>(reached(s.milestones, step));
    return s.schedules[current](current == 0 ? step : step - s.milestones[current - 1], base);
  }
  double operator()(const Product& s) const {
    double value = s.schedules.front()(step, base);
    for (std::size_t i = 1; i < s.schedules.size(); ++i) value *= s.schedules[i](step, 1.0);
    return value;
  }
  double operator()(const Clamp& s) const {
    return std::min(std::max(s.schedule(step, base), s.low.value_or(base)), s.high.value_or(base));
  }
  double operator()(const Round& s) const { return rounded(s.schedule(step, base)); }
};

using MaybeStep = std::optional<std::int64_t>;

struct End {
  MaybeStep operator()(const Constant&) const { return 0; }
  MaybeStep operator()(const Step& s) const { return unless_constant(s.gamma); }
  MaybeStep operator()(const MultiStep& s) const { return s.milestones.back(); }
  MaybeStep operator()(const Exponential& s) const { return unless_constant(s.gamma); }
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
  static MaybeStep unless_constant(double gamma) {
    return gamma == 1 ? MaybeStep(0) : std::nullopt;
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
    if (s.end <= s.begin) refuse("end", "be above begin, " + std::to_string(s.begin), s.end);
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

struct Schedule::Held {
  Kind kind;
  int depth = 1, size = 1;
};

Schedule::Schedule(Kind&& kind, Checked) {
  std::visit(Check(), kind);
  held_ = std::make_shared<Held>(Held{std::move(kind)});
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

const Schedule::Kind& Schedule::kind() const noexcept { return held_->kind; }

void Schedule::for_each_part(const std::function<void(const Schedule&)>& visit) const {
  std::visit(Parts{visit}, kind());
}

double Schedule::operator()(std::int64_t step, double base) const {
  if (step < 0) throw ValueError("step must be at least 0, got " + std::to_string(step));
  return std::visit(Value{step, base}, kind());
}

ParamValue Schedule::operator()(std::int64_t step, const ParamValue& base, const std::string& key,
                                const std::string& group) const {
  const double number = base.as_number(key, group);
  if (base.get_if<double>() != nullptr) return (*this)(step, number);
  const double value = rounded((*this)(step, number));
  for (const double integer : {number, value}) {
    if (!(std::abs(integer) <= integer_max)) {
      throw ValueError(label(key, group) + " must be an integer of at most 2^53, got " +
                       to_string(ParamValue(integer)));
    }
  }
  return static_cast<std::int64_t>(value);
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
