#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "c_abi/arrays.hpp"
#include "c_abi/handles.hpp"
#include "c_abi/own_state.hpp"
#include "c_abi/params.hpp"
#include "c_abi/status.hpp"
#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/group_params.hpp"

namespace datasparse::c_abi {
namespace {

/// The caller's overrides, of this header's layout or an older one's.
datasparse_sparsifier_overrides overrides_of(const datasparse_sparsifier_overrides* given) {
  datasparse_sparsifier_overrides result = {};
  const bool is_old = versioned(given, "overrides").version < 2;
  std::memcpy(&result, given,
              is_old ? offsetof(datasparse_sparsifier_overrides, get_scores) : sizeof(result));
  return result;
}

/// Scores that a callback has given.
class Scores final : public DataSource {
 public:
  Scores(void* user_data, void (*release)(void*, void*), const datasparse_array& array)
      : user_data_(user_data), release_(release), data_(array.data) {
    // Its destructor would not run.
    try {
      view_ = to_view(&array, "scores");
    } catch (...) {
      let_go();
      throw;
    }
  }
  ~Scores() override { let_go(); }

  ArrayView pin() override { return view_; }
  void unpin() noexcept override {}

 private:
  void let_go() const noexcept {
    if (release_ != nullptr) release_(user_data_, data_);
  }

  void* user_data_;
  void (*release_)(void*, void*);
  void* data_;
  ArrayView view_;
};

/// A sparsifier that calls back.
template <class Base>
class Sparsifier final : public WithOwnState<Base> {
 public:
  template <class... Arguments>
  explicit Sparsifier(const datasparse_sparsifier_overrides& overrides,
                      std::vector<std::string> own_keys, Arguments&&... arguments)
      : WithOwnState<Base>(overrides.own, std::forward<Arguments>(arguments)...),
        overrides_(overrides),
        own_keys_(std::move(own_keys)),
        handle_{std::shared_ptr<BaseDataSparsifier>(std::shared_ptr<void>(), this)} {
    this->check_defaults();
  }

  void update_mask(const std::string& name, const ArrayView& data,
                   const ParamMap& config) override {
    if constexpr (has_norm) {
      if (overrides_.update_mask == nullptr) return Base::update_mask(name, data, config);
    }
    const datasparse_array array = to_array(data);
    const datasparse_params values(&config);
    call_back("update_mask", overrides_.update_mask, this->user_data(), &handle_, name.c_str(),
              &array, &values, this->get_mask(name).data());
  }

  void check_config(const std::string& name, const ParamMap& config) const override {
    if (overrides_.check_config != nullptr) {
      const datasparse_params values(&config);
      call_back("check_config", overrides_.check_config, this->user_data(), name.c_str(), &values);
    }
    if constexpr (has_norm) {
      ParamMap spec = config;
      for (const std::string& key : own_keys_) spec.erase(key);
      Base::check_config(name, spec);
    }
  }

 protected:
  BaseDataSparsifier::ForeignHooks foreign_hooks() const override {
    const bool scores = overrides_.get_scores != nullptr && overrides_.update_mask == nullptr;
    return {overrides_.update_mask != nullptr, overrides_.check_config != nullptr,
            scores ? scores_from_callback : nullptr};
  }

 private:
  static std::shared_ptr<DataSource> scores_from_callback(BaseDataSparsifier& base,
                                                          const std::string& name,
                                                          const ArrayView& data,
                                                          const ParamMap& config) {
    const auto& self = static_cast<const Sparsifier&>(base);
    const datasparse_array array = to_array(data);
    datasparse_array scores = array;
    const datasparse_params values(&config);
    call_back("get_scores", self.overrides_.get_scores, self.user_data(), &self.handle_,
              name.c_str(), &array, &values, &scores);
    if (std::memcmp(&scores, &array, sizeof(array)) == 0) return nullptr;
    return std::make_shared<Scores>(self.user_data(), self.overrides_.release_scores, scores);
  }

  static constexpr bool has_norm = std::is_base_of_v<DataNormSparsifier, Base>;

  const datasparse_sparsifier_overrides overrides_;
  const std::vector<std::string> own_keys_;  // config keys beside the norm's
  const datasparse_sparsifier handle_;       // for callbacks: owns nothing
};

/// Hands a complete object, and its user_data with it, over to the caller.
template <class T>
void create(std::shared_ptr<T> object, datasparse_sparsifier** sparsifier) {
  *sparsifier = new datasparse_sparsifier{object};
  if constexpr (!std::is_same_v<T, DataNormSparsifier>) object->adopt();
}

/// Memory that its owner moves.
class Source final : public UserData, public DataSource {
 public:
  explicit Source(const datasparse_source& source)
      : UserData(source.user_data, source.release), source_(source) {
    function(source.pin, "source->pin");
  }

  ArrayView pin() override {
    datasparse_array array = datasparse_array_of(DATASPARSE_FLOAT32, nullptr, 0, nullptr);
    call_back("pin", source_.pin, user_data(), &array);
    try {
      return to_view(&array, "array");
    } catch (...) {
      unpin();
      throw;
    }
  }
  void unpin() noexcept override {
    if (source_.unpin != nullptr) source_.unpin(user_data());
  }
  void mark_written() noexcept override {
    if (source_.mark_written != nullptr) source_.mark_written(user_data());
  }

 private:
  const datasparse_source source_;
};

std::vector<std::string> names_of(const char* const* names, std::size_t count) {
  std::vector<std::string> result;
  result.reserve(count);
  for (std::size_t i = 0; i < count; ++i) result.push_back(text(names[i], "an item of names"));
  return result;
}

}  // namespace
}  // namespace datasparse::c_abi

using namespace datasparse;
using namespace datasparse::c_abi;

datasparse_status datasparse_data_norm_sparsifier_create(
    const datasparse_block_spec* defaults, const datasparse_params* own,
    const datasparse_sparsifier_overrides* overrides, datasparse_sparsifier** sparsifier) {
  return guarded([&] {
    const BlockSpec spec = to_spec(defaults, "defaults");
    required(sparsifier, "sparsifier");
    if (overrides == nullptr && map_or_none(own).empty()) {
      return create(std::make_shared<DataNormSparsifier>(spec), sparsifier);
    }
    const datasparse_sparsifier_overrides calls =
        overrides == nullptr ? datasparse_sparsifier_overrides() : overrides_of(overrides);
    const ParamMap& more = map_or_none(own);
    create(std::make_shared<Sparsifier<DataNormSparsifier>>(calls, more.keys(), spec, more),
           sparsifier);
  });
}

datasparse_status datasparse_sparsifier_create(const datasparse_params* defaults,
                                               const datasparse_sparsifier_overrides* overrides,
                                               datasparse_sparsifier** sparsifier) {
  return guarded([&] {
    const datasparse_sparsifier_overrides calls = overrides_of(overrides);
    function(calls.update_mask, "overrides->update_mask");
    required(sparsifier, "sparsifier");
    create(std::make_shared<Sparsifier<BaseDataSparsifier>>(calls, std::vector<std::string>(),
                                                            map_or_none(defaults)),
           sparsifier);
  });
}

void datasparse_sparsifier_release(datasparse_sparsifier* sparsifier) { delete sparsifier; }

datasparse_status datasparse_data_norm_update_mask(const datasparse_sparsifier* sparsifier,
                                                   const char* name, const datasparse_array* data,
                                                   const datasparse_params* config) {
  return guarded([&] {
    const auto norm = std::dynamic_pointer_cast<DataNormSparsifier>(object(sparsifier));
    if (norm == nullptr) throw TypeError("sparsifier must be one that prunes by a norm");
    const std::string group = text(name, "name");
    const ArrayView view = to_view(data, "data");
    const ParamMap& values = required(config, "config").map();
    if (!GroupTable(*norm).in_update_mask()) throw StateError("only update_mask may call this");
    // Not the virtual function, which is the one that calls this.
    norm->DataNormSparsifier::update_mask(group, view, values);
  });
}

datasparse_status datasparse_sparsifier_add_data(datasparse_sparsifier* sparsifier,
                                                 const char* name, const datasparse_array* data,
                                                 const datasparse_params* config) {
  return guarded([&] {
    object(sparsifier)->add_data(text(name, "name"), to_view(data, "data"), map_or_none(config));
  });
}

datasparse_status datasparse_sparsifier_add_data_with_mask(datasparse_sparsifier* sparsifier,
                                                           const char* name,
                                                           const datasparse_array* data,
                                                           const datasparse_params* config,
                                                           const uint8_t* mask, size_t mask_size) {
  return guarded([&] {
    const ArrayView view = to_view(data, "data");
    if (mask != nullptr) require_mask_size(mask_size, view.size());
    object(sparsifier)
        ->add_data(text(name, "name"), make_source(view), map_or_none(config), mask != nullptr,
                   mask);
  });
}

datasparse_status datasparse_sparsifier_add_source(datasparse_sparsifier* sparsifier,
                                                   const char* name,
                                                   const datasparse_source* source,
                                                   const datasparse_params* config) {
  return guarded([&] {
    const auto made = std::make_shared<Source>(versioned(source, "source"));
    object(sparsifier)->add_data(text(name, "name"), made, map_or_none(config));
    made->adopt();
  });
}

datasparse_status datasparse_sparsifier_remove_data(datasparse_sparsifier* sparsifier,
                                                    const char* name) {
  return guarded([&] { object(sparsifier)->remove_data(text(name, "name")); });
}

datasparse_status datasparse_sparsifier_names(const datasparse_sparsifier* sparsifier,
                                              datasparse_names** names) {
  return hand_out(names, "names", [&] { return object(sparsifier)->names(); });
}
datasparse_status datasparse_names_size(const datasparse_names* names, size_t* size) {
  return guarded([&] { required(size, "size") = required(names, "names").items.size(); });
}
datasparse_status datasparse_names_at(const datasparse_names* names, size_t index,
                                      const char** name) {
  return guarded([&] {
    const auto& held = required(names, "names").items;
    require_index(index, held.size());
    required(name, "name") = held[index].c_str();
  });
}
void datasparse_names_release(datasparse_names* names) { delete names; }

datasparse_status datasparse_sparsifier_contains(const datasparse_sparsifier* sparsifier,
                                                 const char* name, int32_t* contains) {
  return guarded([&] {
    required(contains, "contains") = object(sparsifier)->contains(text(name, "name")) ? 1 : 0;
  });
}

datasparse_status datasparse_sparsifier_mask(const datasparse_sparsifier* sparsifier,
                                             const char* name, datasparse_mask** mask) {
  return hand_out(mask, "mask", [&] { return object(sparsifier)->get_mask(text(name, "name")); });
}
datasparse_status datasparse_mask_bytes(const datasparse_mask* mask, uint8_t** bytes,
                                        size_t* size) {
  return guarded([&] {
    const Mask& value = required(mask, "mask").value;
    uint8_t*& first = required(bytes, "bytes");
    required(size, "size") = static_cast<size_t>(value.size());
    first = value.data();
  });
}
datasparse_status datasparse_mask_shape(const datasparse_mask* mask, const int64_t** shape,
                                        int32_t* ndim) {
  return guarded([&] {
    const Axes& value = required(mask, "mask").value.shape();
    const int64_t*& first = required(shape, "shape");
    required(ndim, "ndim") = value.size();
    first = value.begin();
  });
}
datasparse_status datasparse_mask_zeros(const datasparse_mask* mask, int64_t* zeros) {
  return guarded([&] { required(zeros, "zeros") = required(mask, "mask").value.zeros(); });
}
void datasparse_mask_release(datasparse_mask* mask) { delete mask; }

datasparse_status datasparse_sparsifier_config(const datasparse_sparsifier* sparsifier,
                                               const char* name, datasparse_params** config) {
  return hand_out(config, "config", [&] { return object(sparsifier)->config(text(name, "name")); });
}
datasparse_status datasparse_sparsifier_update_config(datasparse_sparsifier* sparsifier,
                                                      const char* name,
                                                      const datasparse_params* changes) {
  return guarded([&] {
    object(sparsifier)->update_config(text(name, "name"), required(changes, "changes").map());
  });
}
datasparse_status datasparse_sparsifier_get_param(const datasparse_sparsifier* sparsifier,
                                                  const char* key, datasparse_params** values) {
  return hand_out(values, "values",
                  [&] { return GroupParams(*object(sparsifier)).get(text(key, "key")); });
}
datasparse_status datasparse_sparsifier_set_param(datasparse_sparsifier* sparsifier,
                                                  const char* key,
                                                  const datasparse_params* values) {
  return guarded([&] {
    GroupParams(*object(sparsifier)).set(text(key, "key"), required(values, "values").map());
  });
}
datasparse_status datasparse_sparsifier_state(const datasparse_sparsifier* sparsifier,
                                              const char* name, datasparse_params** state) {
  return hand_out(state, "state", [&] { return object(sparsifier)->state(text(name, "name")); });
}
datasparse_status datasparse_sparsifier_replace_state(datasparse_sparsifier* sparsifier,
                                                      const char* name,
                                                      const datasparse_params* state) {
  return guarded([&] {
    object(sparsifier)->replace_state(text(name, "name"), required(state, "state").map());
  });
}

datasparse_status datasparse_sparsifier_step(datasparse_sparsifier* sparsifier) {
  return guarded([&] { object(sparsifier)->step(); });
}
datasparse_status datasparse_sparsifier_step_count(const datasparse_sparsifier* sparsifier,
                                                   int64_t* steps) {
  return guarded([&] { required(steps, "steps") = object(sparsifier)->step_count(); });
}
datasparse_status datasparse_sparsifier_set_enable_mask_update(datasparse_sparsifier* sparsifier,
                                                               int32_t enable) {
  return guarded([&] { object(sparsifier)->set_enable_mask_update(enable != 0); });
}
datasparse_status datasparse_sparsifier_enable_mask_update(const datasparse_sparsifier* sparsifier,
                                                           int32_t* enabled) {
  return guarded(
      [&] { required(enabled, "enabled") = object(sparsifier)->enable_mask_update() ? 1 : 0; });
}
datasparse_status datasparse_sparsifier_apply_mask(datasparse_sparsifier* sparsifier) {
  return guarded([&] { object(sparsifier)->apply_mask(); });
}
datasparse_status datasparse_sparsifier_apply_mask_of(datasparse_sparsifier* sparsifier,
                                                      const char* const* names, size_t count) {
  return guarded(
      [&] { object(sparsifier)->apply_mask(names_of(items(names, count, "names"), count)); });
}
datasparse_status datasparse_sparsifier_squash_mask(datasparse_sparsifier* sparsifier) {
  return guarded([&] { object(sparsifier)->squash_mask(); });
}
datasparse_status datasparse_sparsifier_squash_mask_of(datasparse_sparsifier* sparsifier,
                                                       const char* const* names, size_t count) {
  return guarded(
      [&] { object(sparsifier)->squash_mask(names_of(items(names, count, "names"), count)); });
}

datasparse_status datasparse_sparsifier_report(const datasparse_sparsifier* sparsifier,
                                               datasparse_report** report) {
  static_assert(DATASPARSE_SQUASHED == static_cast<int>(GroupFigures::Status::squashed) &&
                DATASPARSE_AWAITS_DATA == static_cast<int>(GroupFigures::Status::awaits_data));
  return hand_out(report, "report", [&] { return GroupTable(*object(sparsifier)).figures(); });
}
datasparse_status datasparse_report_size(const datasparse_report* report, size_t* size) {
  return guarded([&] { required(size, "size") = required(report, "report").groups.size(); });
}
datasparse_status datasparse_report_at(const datasparse_report* report, size_t index,
                                       datasparse_group* group) {
  return guarded([&] {
    const auto& groups = required(report, "report").groups;
    require_index(index, groups.size());
    const GroupFigures& figures = groups[index];
    versioned(group, "group") = {DATASPARSE_ABI_VERSION,
                                 static_cast<int32_t>(figures.status),
                                 figures.dtype ? static_cast<int32_t>(*figures.dtype) : -1,
                                 figures.shape.size(),
                                 figures.name.c_str(),
                                 figures.shape.begin(),
                                 element_count(figures.shape),
                                 figures.zeros};
  });
}
void datasparse_report_release(datasparse_report* report) { delete report; }
