// Samples added to the sums that groups keep.

#include "datasparse/score_sums.hpp"

#include <cmath>

#include "datasparse/error.hpp"
#include "sparsifier/data_sparsifier_impl.hpp"

namespace datasparse {
namespace {

using Access = std::function<void(const std::function<void()>&)>;

/// Gradients that are pinned for the length of a scope.
class PinnedSamples {
 public:
  PinnedSamples(const Access& access, const std::vector<ScoreSums::Sample>& some)
      : access_(access) {
    pinned_.reserve(some.size());
    views.reserve(some.size());
    access_([&] {
      try {
        for (const auto& sample : some) {
          views.push_back(sample.gradient->pin());
          pinned_.push_back(sample.gradient.get());
        }
      } catch (...) {
        unpin();
        throw;
      }
    });
  }
  PinnedSamples(const PinnedSamples&) = delete;
  PinnedSamples& operator=(const PinnedSamples&) = delete;
  ~PinnedSamples() {
    access_([this] { unpin(); });
  }

  std::vector<ArrayView> views;

 private:
  void unpin() noexcept {
    for (auto* source : pinned_) source->unpin();
    pinned_.clear();
  }

  const Access& access_;
  std::vector<DataSource*> pinned_;
};

void require_on_cpu(const std::string& what, const std::string& name, const Device& device) {
  if (&device == &cpu()) return;
  throw TypeError(label(what, name) + " must be in CPU memory to be summed up, got " +
                  device.name() + "; sum scores where they are, and rank by get_scores()");
}

void require_fit(const std::string& name, const ArrayView& gradient, const ArrayView& weights,
                 const KeptArrays& arrays) {
  if (gradient.shape() != weights.shape()) {
    throw ValueError("gradient of '" + name + "' must have the shape of its data, " +
                     to_string(weights.shape()) + ", got " + to_string(gradient.shape()));
  }
  if (!is_finite(gradient)) {
    throw ValueError("gradient of '" + name +
                     "' must be finite, got infinite values or NaN; leave such a step out");
  }
  const auto found = arrays.find(ScoreSums::sums);
  if (found == arrays.end()) return;
  const KeptArray& sums = found->second;
  const auto type = sums_type(weights.dtype());
  const auto count = arrays.find(ScoreSums::samples);
  const bool counted = count != arrays.end() && count->second.type() == KeptArray::Type::int64 &&
                       count->second.byte_count() == sizeof(std::int64_t);
  if (sums.type() == type && sums.shape() == weights.shape() && counted) return;
  throw ValueError("sums of '" + name + "' are of " + name_of(sums.type()) + " and shape " +
                   to_string(sums.shape()) + ", and its data need " + name_of(type) + " and " +
                   to_string(weights.shape()) + ": call reset_score() first");
}

}  // namespace

void ScoreSums::add(ScoreTerm term, double scale, const std::vector<Sample>& some, double decay) {
  if (!(decay >= 0 && decay <= 1)) {
    throw ValueError("decay must be in [0, 1], got " + to_string(ParamValue(decay)));
  }
  if (!std::isfinite(scale)) {
    throw ValueError("scale must be finite, got " + to_string(ParamValue(scale)));
  }
  for (const auto& sample : some) {
    if (sample.gradient == nullptr) {
      throw TypeError("gradient of '" + sample.name + "' must be a source, got none");
    }
  }
  const Entry entry(sparsifier_, "accumulate()");
  const auto& impl = *sparsifier_.impl_;
  std::vector<std::string> names;
  for (const auto& sample : some) names.push_back(sample.name);
  const auto groups = impl.unsquashed(names, "accumulate");
  if (groups.size() != some.size()) throw ValueError("accumulate() must get each name once");
  const BaseDataSparsifier::Pins data(sparsifier_, groups, BaseDataSparsifier::Pins::Of::summed_up);
  const PinnedSamples gradients(impl.access, some);

  for (std::size_t i = 0; i < some.size(); ++i) {
    require_on_cpu("data", some[i].name, groups[i]->source->device());
    require_on_cpu("gradient", some[i].name, some[i].gradient->device());
    require_fit(some[i].name, gradients.views[i], data.views()[i], groups[i]->arrays);
  }
  // All that may fail comes first: memory for new sums, and for those that somebody shares.
  std::vector<KeptArrays> fresh(some.size());
  for (std::size_t i = 0; i < some.size(); ++i) {
    auto& arrays = groups[i]->arrays;
    const auto found = arrays.find(sums);
    if (found != arrays.end()) {
      found->second.write();
      arrays.at(samples).write();
    } else {
      const ArrayView& weights = data.views()[i];
      fresh[i].emplace(sums, KeptArray(sums_type(weights.dtype()), weights.shape()));
      fresh[i].emplace(samples, KeptArray(KeptArray::Type::int64, Axes{}));
    }
  }
  for (std::size_t i = 0; i < some.size(); ++i) {
    auto& arrays = groups[i]->arrays;
    fresh[i].merge(arrays);  // but for samples that were there without sums
    arrays.swap(fresh[i]);
    add_score_terms(term, scale, data.views()[i], gradients.views[i], arrays.find(sums)->second,
                    decay);
    ++*reinterpret_cast<std::int64_t*>(arrays.find(samples)->second.write());
  }
}

}  // namespace datasparse
