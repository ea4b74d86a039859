/// A score in the form of a recipe: what datasparse.scores has, as a sparsifier holds it.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <string>

#include "datasparse/score_sums.hpp"

struct ScoreRecipe {
  /// A sum that the core makes in one pass.
  struct Fused {
    datasparse::ScoreTerm term;
    double scale;
  };

  pybind11::object object;  // the user's
  std::string name;         // as text: what is saved
  bool is_signed, reads_gradients, accumulates;
  std::vector<std::string> arrays;  // the keys of what it keeps
  std::optional<Fused> fused;
  double decay;  // of sums, with each sample

  /// TypeError for what is no datasparse.scores.Score. Let go of from any thread.
  static std::shared_ptr<const ScoreRecipe> of(const pybind11::object& score);
};

/// The key under which scores lie that were made ahead, for one step.
constexpr const char* scores_made_ahead = "scores";
