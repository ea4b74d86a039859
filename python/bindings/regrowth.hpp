/// Gradients for masks that move.
#pragma once

#include <memory>
#include <string>

#include "datasparse/data_sparsifier.hpp"

/// ForeignHooks::get_gradients of a sparsifier that was made in Python: what an override of
/// get_gradients() returns, what set_gradients() was given, or a torch parameter's own.
std::shared_ptr<datasparse::DataSource> gradients_from_python(datasparse::BaseDataSparsifier& self,
                                                              const std::string& name,
                                                              const datasparse::ArrayView& data,
                                                              const datasparse::ParamMap& config);
