/// What an object with callbacks keeps of its own.
#pragma once

#include <functional>
#include <utility>

#include "c_abi/params.hpp"
#include "c_abi/status.hpp"

namespace datasparse::c_abi {

/// The caller's user_data. It is released at the end only after adopt(): until the object that
/// holds it is complete, it stays the caller's.
class UserData {
 public:
  UserData(void* pointer, void (*release)(void*)) noexcept : pointer_(pointer), release_(release) {}
  UserData(const UserData&) = delete;
  UserData& operator=(const UserData&) = delete;
  ~UserData() {
    if (adopted_ && release_ != nullptr) release_(pointer_);
  }

  void adopt() noexcept { adopted_ = true; }
  void* user_data() const noexcept { return pointer_; }

 private:
  void* pointer_;
  void (*release_)(void*);
  bool adopted_ = false;
};

/// Base with the attributes of a datasparse_own_state. The user_data are released last: a source in
/// the base may point into them.
template <class Base>
class WithOwnState : protected UserData, public Base {
 public:
  template <class... Arguments>
  explicit WithOwnState(const datasparse_own_state& own, Arguments&&... arguments)
      : UserData(own.user_data, own.release),
        Base(std::forward<Arguments>(arguments)...),
        own_(own) {
    if ((own.prepare_load == nullptr) != (own.commit_load == nullptr) ||
        (own.save != nullptr && own.prepare_load == nullptr)) {
      throw ValueError("prepare_load and commit_load must both be there, or neither they nor save");
    }
  }

  using UserData::adopt;

  Attributes attributes() const override {
    if (own_.save == nullptr) return Base::attributes();
    datasparse_params values;
    call_back("save", own_.save, user_data(), &values);
    return to_attributes(values.own);
  }

  std::function<void()> prepare_attributes(const Attributes& saved) override {
    if (own_.prepare_load == nullptr) return Base::prepare_attributes(saved);
    const datasparse_params values(to_params(saved));
    call_back("prepare_load", own_.prepare_load, user_data(), &values);
    return [this]() noexcept { own_.commit_load(user_data()); };
  }

 private:
  const datasparse_own_state own_;
};

}  // namespace datasparse::c_abi
