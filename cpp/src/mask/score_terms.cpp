// One pass over weights and gradients.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "base/parallel.hpp"
#include "datasparse/score_sums.hpp"
#include "kernels/kernels.hpp"
#include "tiles/matrix.hpp"

namespace datasparse {
namespace {

constexpr std::int64_t run_max = 1024;         // elements that are widened at a time: in the cache
constexpr std::int64_t piece_max = 64 * 1024;  // that a thread takes at a time

/// Elements of a row as Values, one after another: a run of at most run_max, where it lies if it
/// lies so already.
template <class Value>
class Run {
 public:
  Run(const Kernels& table, const Matrix& matrix)
      : table_(table), matrix_(matrix), lies_right_(lies_right(matrix)) {}

  const Value* operator()(std::int64_t row, std::int64_t column, std::int64_t n) noexcept {
    if (lies_right_) return reinterpret_cast<const Value*>(matrix_.at(row, column));
    if (matrix_.dtype() == DType::float64) {
      read<double>(row, column, n);
    } else {
      read<float>(row, column, n);
    }
    return values_;
  }

 private:
  template <class Native>
  void read(std::int64_t row, std::int64_t column, std::int64_t n) noexcept {
    Native narrow[run_max];
    Native* into = narrow;
    if constexpr (std::is_same_v<Native, Value>) into = values_;
    const auto widen = table_.accumulate[static_cast<int>(matrix_.dtype())][norm_of_values];
    matrix_.for_each_run(
        row, column, n,
        [&](const std::byte* run, std::ptrdiff_t stride, std::int64_t count, std::int64_t offset) {
          const auto bytes = static_cast<std::size_t>(count) * sizeof(Native);
          if (stride == static_cast<std::ptrdiff_t>(sizeof(Native)) &&
              matrix_.item_size() == stride) {
            std::memcpy(into + offset, run, bytes);
          } else {
            std::memset(into + offset, 0, bytes);
            widen(into + offset, run, stride, count, 0, 1);
          }
        });
    if constexpr (!std::is_same_v<Native, Value>) {
      for (std::int64_t i = 0; i < n; ++i) values_[i] = static_cast<Value>(narrow[i]);
    }
  }

  static bool lies_right(const Matrix& matrix) noexcept {
    constexpr DType native = sizeof(Value) == 4 ? DType::float32 : DType::float64;
    const auto address = reinterpret_cast<std::uintptr_t>(matrix.at(0, 0));
    return matrix.dtype() == native && matrix.is_unit() && address % sizeof(Value) == 0 &&
           matrix.row_stride() % static_cast<std::ptrdiff_t>(sizeof(Value)) == 0;
  }

  static constexpr int norm_of_values = 2;  // Norm::none: the values as they are

  const Kernels& table_;
  const Matrix& matrix_;
  const bool lies_right_;
  Value values_[run_max];
};

/// Calls body(row, column, n, index) for runs that make up rows × columns, in several threads, each
/// with a body of its own, made by make().
template <class Make>
void for_each_run(std::int64_t rows, std::int64_t columns, const Make& make) noexcept {
  const std::int64_t elements = rows * columns;
  if (elements == 0) return;
  const std::int64_t width = std::min(columns, piece_max);
  const std::int64_t across = (columns + width - 1) / width;
  const std::int64_t height = std::max<std::int64_t>(1, piece_max / width);
  const std::int64_t down = (rows + height - 1) / height;
  const int threads = elements < parallel_from ? 1 : available_threads();
  parallel_for(across * down, threads, [&](std::int64_t piece, int) {
    auto body = make();
    const std::int64_t first = piece % across * width;
    const std::int64_t last = std::min(first + width, columns);
    const std::int64_t top = piece / across * height;
    for (std::int64_t row = top; row < std::min(top + height, rows); ++row) {
      for (std::int64_t column = first; column < last; column += run_max) {
        body(row, column, std::min(run_max, last - column), row * columns + column);
      }
    }
  });
}

/// Both as one row, where they allow.
void merge_rows(Matrix& one, Matrix& other) noexcept {
  if (!one.is_one_row() || !other.is_one_row()) return;
  one = one.as_one_row();
  other = other.as_one_row();
}

template <ScoreTerm term, class Value>
Value term_of(Value w, Value g) noexcept {
  switch (term) {
    case ScoreTerm::gradient: return g;
    case ScoreTerm::abs_gradient: return std::abs(g);
    case ScoreTerm::square_gradient: return g * g;
    case ScoreTerm::product: return w * g;
    case ScoreTerm::abs_product: return std::abs(w * g);
    case ScoreTerm::square_product: return (w * g) * (w * g);
    case ScoreTerm::weighted_square: return (w * w) * g;
  }
}

/// What sums and terms are multiplied by.
template <class Value>
struct Factors {
  Value decay, scale;
};

template <ScoreTerm term, class Value>
void add_terms(Factors<Value> by, const Matrix& weights, const Matrix& gradient, Value* sums) {
  const Kernels& table = kernels();
  for_each_run(weights.rows(), weights.columns(), [&] {
    return [&, w = Run<Value>(table, weights), g = Run<Value>(table, gradient)](
               std::int64_t row, std::int64_t column, std::int64_t n, std::int64_t index) mutable {
      const Value* const some_g = g(row, column, n);
      const Value* const some_w = w(row, column, n);
      Value* const to = sums + index;
      for (std::int64_t i = 0; i < n; ++i) {
        to[i] = by.decay * to[i] + by.scale * term_of<term>(some_w[i], some_g[i]);
      }
    };
  });
}

template <class Value>
void add_any(ScoreTerm term, Factors<Value> by, const Matrix& weights, const Matrix& gradient,
             Value* sums) {
  using Term = ScoreTerm;
  const auto add = [&](auto constant) {
    add_terms<decltype(constant)::value>(by, weights, gradient, sums);
  };
  switch (term) {
    case Term::gradient: return add(std::integral_constant<Term, Term::gradient>());
    case Term::abs_gradient: return add(std::integral_constant<Term, Term::abs_gradient>());
    case Term::square_gradient: return add(std::integral_constant<Term, Term::square_gradient>());
    case Term::product: return add(std::integral_constant<Term, Term::product>());
    case Term::abs_product: return add(std::integral_constant<Term, Term::abs_product>());
    case Term::square_product: return add(std::integral_constant<Term, Term::square_product>());
    case Term::weighted_square: return add(std::integral_constant<Term, Term::weighted_square>());
  }
}

template <class Value>
bool all_finite(const Matrix& matrix) {
  using Bits = std::conditional_t<sizeof(Value) == 4, std::uint32_t, std::uint64_t>;
  std::atomic<bool> finite{true};
  const Kernels& table = kernels();
  for_each_run(matrix.rows(), matrix.columns(), [&] {
    return [&, read = Run<Value>(table, matrix)](std::int64_t row, std::int64_t column,
                                                 std::int64_t n, std::int64_t) mutable {
      const Value infinity = std::numeric_limits<Value>::infinity();
      Bits exponent;
      std::memcpy(&exponent, &infinity, sizeof(exponent));
      const Value* const values = read(row, column, n);
      Bits wrong = 0;  // of integers, which are compared several at a time
      for (std::int64_t i = 0; i < n; ++i) {
        Bits bits;
        std::memcpy(&bits, values + i, sizeof(bits));
        wrong |= static_cast<Bits>((bits & exponent) == exponent);
      }
      if (wrong != 0) finite.store(false, std::memory_order_relaxed);
    };
  });
  return finite.load();
}

}  // namespace

void add_score_terms(ScoreTerm term, double scale, const ArrayView& weights,
                     const ArrayView& gradient, KeptArray& sums, double decay) {
  Matrix w(weights), g(gradient);
  merge_rows(w, g);
  std::uint8_t* const bytes = sums.write();
  if (sums.type() == KeptArray::Type::float64) {
    add_any<double>(term, {decay, scale}, w, g, reinterpret_cast<double*>(bytes));
  } else {
    const Factors<float> by{static_cast<float>(decay), static_cast<float>(scale)};
    add_any<float>(term, by, w, g, reinterpret_cast<float*>(bytes));
  }
}

bool is_finite(const ArrayView& view) {
  Matrix matrix(view);
  if (matrix.is_one_row()) matrix = matrix.as_one_row();
  return view.dtype() == DType::float64 ? all_finite<double>(matrix) : all_finite<float>(matrix);
}

}  // namespace datasparse
