#include "datasparse/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "datasparse/error.hpp"
#include "schedule/schedule_impl.hpp"

namespace datasparse {

using namespace schedules;

namespace {

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

/// A group that starts at 0 stays there, however great a power has become.
double times(double base, double factor) { return base == 0 ? base : base * factor; }

/// The way from `initial` to `final`, of which progress(done, left) in [0, 1] lies behind: `done`
/// and `left` are shares of the time.
template <class Progress>
double along(const Ramp& ramp, std::int64_t step, double base, const Progress& progress) {
  const double initial = ramp.initial.value_or(base), final = ramp.final.value_or(base);
  if (step >= ramp.end) return final;  // first, since it may end where it begins
  if (step <= ramp.begin) return initial;
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
  double operator()(const Step& s) const {
    return times(base, power_of(s.gamma, step / s.step_size));
  }
  double operator()(const MultiStep& s) const {
    return times(base, power_of(s.gamma, reached(s.milestones, step)));
  }
  double operator()(const Exponential& s) const {
    return times(base, power_of(s.gamma, step / s.every * s.every));
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
    for (std::size_t i = 1; i < s.schedules.size(); ++i) {
      value = times(value, s.schedules[i](step, 1.0));
    }
    return value;
  }
  double operator()(const Clamp& s) const {
    const double value = s.schedule(step, base);
    if (std::isnan(value)) return value;  // which lies between no two levels
    return std::min(std::max(value, s.low.value_or(base)), s.high.value_or(base));
  }
  double operator()(const Round& s) const { return rounded(s.schedule(step, base)); }
};

}  // namespace

// --- Schedule -----------------------------------------------------------------------------------

const Schedule::Kind& Schedule::kind() const noexcept { return held_->kind; }

bool Schedule::is_of_integers() const noexcept { return held_->of_integers; }

double Schedule::operator()(std::int64_t step, double base) const {
  if (step < 0) throw ValueError("step must be at least 0, got " + std::to_string(step));
  return std::visit(Value{step, base}, kind());
}

ParamValue Schedule::operator()(std::int64_t step, const ParamValue& base, const std::string& key,
                                const std::string& group, bool integer_key) const {
  const double number = base.as_number(key, group);
  const bool from_integer = base.get_if<std::int64_t>() != nullptr;
  if (!integer_key && !(from_integer && is_of_integers())) return (*this)(step, number);
  const double value = rounded((*this)(step, number));
  for (const double integer : {number, value}) {
    if (!(std::abs(integer) <= integer_max)) {
      throw ValueError(label(key, group) + " must be an integer of at most 2^53, got " +
                       to_string(ParamValue(integer)));
    }
  }
  return static_cast<std::int64_t>(value);
}

}  // namespace datasparse
