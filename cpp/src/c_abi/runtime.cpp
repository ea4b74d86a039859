#include "datasparse/runtime.hpp"

#include "c_abi/status.hpp"
#include "kernels/kernels.hpp"

using namespace datasparse::c_abi;

const char* datasparse_version() { return datasparse::version(); }

uint32_t datasparse_abi_version() { return DATASPARSE_ABI_VERSION; }

datasparse_status datasparse_set_num_threads(int32_t threads) {
  return guarded([&] { datasparse::set_num_threads(threads); });
}

int32_t datasparse_get_num_threads() { return datasparse::get_num_threads(); }

datasparse_status datasparse_instruction_set(const char** name) {
  return guarded([&] {
    const char*& result = required(name, "name");
    result = datasparse::kernels().name;
  });
}

datasparse_status datasparse_set_message_handler(void (*handler)(void*, int32_t, const char*),
                                                 void* user_data) {
  return guarded([&] {
    if (handler == nullptr) {
      datasparse::set_message_handler(nullptr);
      return;
    }
    datasparse::set_message_handler(
        [handler, user_data](datasparse::Severity severity, const std::string& message) noexcept {
          const bool warns = severity == datasparse::Severity::warning;
          handler(user_data, warns ? DATASPARSE_WARNING : DATASPARSE_INFO, message.c_str());
        });
  });
}
