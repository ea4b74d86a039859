#include "datasparse/data_norm_sparsifier.hpp"

#include <typeinfo>

namespace datasparse {

template class SpecSparsifier<BlockSpec>;

BaseDataSparsifier::ForeignHooks DataNormSparsifier::foreign_hooks() const {
  const bool derived = typeid(*this) != typeid(DataNormSparsifier);
  return {derived, derived, derived ? own_scores : nullptr};
}

}  // namespace datasparse
