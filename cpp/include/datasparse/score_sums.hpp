/// What scores add up of weights and gradients: one pass over both for each sample.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "datasparse/data_sparsifier.hpp"
#include "datasparse/kept_array.hpp"

namespace datasparse {

/// What a score makes of a weight w and its gradient g.
enum class ScoreTerm : std::uint8_t {
  gradient,         ///< g
  abs_gradient,     ///< |g|
  square_gradient,  ///< g²
  product,          ///< w·g
  abs_product,      ///< |w·g|
  square_product,   ///< (w·g)²: Taylor, Molchanov et al. 2019
  weighted_square,  ///< w²·g: Fisher, where g is the mean of squares
};

/// sums[i] = decay · sums[i] + scale · term(w[i], g[i]), in the type of the sums, float32 or
/// float64, from left to right, each product and sum rounded. `gradient` has the shape of
/// `weights`, and so has `sums`, which nobody else shares.
/// Cost: one pass over all three, no allocation, parallel. Checks nothing.
DATASPARSE_API void add_score_terms(ScoreTerm term, double scale, const ArrayView& weights,
                                    const ArrayView& gradient, KeptArray& sums, double decay = 1);
/// Whether no element is infinite or NaN. Cost: one pass over them, no allocation, parallel.
DATASPARSE_API bool is_finite(const ArrayView& view);
/// The type that sums are kept in: float64 for float64, else float32.
constexpr KeptArray::Type sums_type(DType weights) noexcept {
  return weights == DType::float64 ? KeptArray::Type::float64 : KeptArray::Type::float32;
}

/// The sums of scores, which are arrays of the groups: `sums`, of the data's shape, and `samples`,
/// an int64, how many were added.
class DATASPARSE_API ScoreSums {
 public:
  static constexpr const char* sums = "sums";
  static constexpr const char* samples = "samples";

  struct Sample {
    std::string name;
    std::shared_ptr<DataSource> gradient;
  };

  explicit ScoreSums(BaseDataSparsifier& sparsifier) noexcept : sparsifier_(sparsifier) {}

  /// Adds a sample to the sums of each group that is named, which begin as zeros; all or none. The
  /// sums are multiplied by `decay` before, in [0, 1]; 1 forgets nothing.
  ///
  /// Errors, naming the group: ValueError for a gradient of another shape than the data, for one
  /// that is not finite, for data whose type takes other sums than those that are there, and for a
  /// group that was squashed. TypeError for data or a gradient that are not in CPU memory.
  /// UnknownNameError. ValueError, too, for a decay outside [0, 1], and for a name that comes
  /// twice. StateError from inside an override. Cost: reads gradients twice, and all else once; in
  /// place, where nobody holds the sums.
  void add(ScoreTerm term, double scale, const std::vector<Sample>& some, double decay = 1);

 private:
  using Entry = BaseDataSparsifier::Entry;

  BaseDataSparsifier& sparsifier_;
};

}  // namespace datasparse
