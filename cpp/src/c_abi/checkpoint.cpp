#include "datasparse/checkpoint.hpp"

#include <memory>
#include <vector>

#include "c_abi/handles.hpp"
#include "c_abi/status.hpp"

using namespace datasparse;
using namespace datasparse::c_abi;

namespace {

std::vector<std::shared_ptr<BaseDataScheduler>> objects(
    const datasparse_scheduler* const* schedulers, std::size_t count) {
  items(schedulers, count, "schedulers");
  std::vector<std::shared_ptr<BaseDataScheduler>> result;
  for (std::size_t i = 0; i < count; ++i) {
    result.push_back(required(schedulers[i], "an item of schedulers").object);
  }
  return result;
}

}  // namespace

datasparse_status datasparse_save_checkpoint(const char* path,
                                             const datasparse_sparsifier* sparsifier,
                                             const datasparse_scheduler* const* schedulers,
                                             size_t count) {
  return guarded([&] {
    const auto held = objects(schedulers, count);
    std::vector<const BaseDataScheduler*> list;
    for (const auto& scheduler : held) list.push_back(scheduler.get());
    save_checkpoint(text(path, "path"), *object(sparsifier), list);
  });
}

datasparse_status datasparse_load_checkpoint(const char* path, datasparse_sparsifier* sparsifier,
                                             datasparse_scheduler* const* schedulers, size_t count,
                                             int32_t strict) {
  return guarded([&] {
    const auto held = objects(schedulers, count);
    std::vector<BaseDataScheduler*> list;
    for (const auto& scheduler : held) list.push_back(scheduler.get());
    load_checkpoint(text(path, "path"), *object(sparsifier), list, strict != 0);
  });
}
