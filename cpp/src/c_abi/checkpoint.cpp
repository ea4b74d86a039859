#include "datasparse/checkpoint.hpp"

#include <vector>

#include "c_abi/handles.hpp"
#include "c_abi/status.hpp"

using namespace datasparse;
using namespace datasparse::c_abi;

datasparse_status datasparse_save_checkpoint(const char* path,
                                             const datasparse_sparsifier* sparsifier,
                                             const datasparse_scheduler* const* schedulers,
                                             size_t count) {
  return guarded([&] {
    items(schedulers, count, "schedulers");
    std::vector<const BaseDataScheduler*> list;
    for (std::size_t i = 0; i < count; ++i) list.push_back(&object(schedulers[i]));
    save_checkpoint(text(path, "path"), *object(sparsifier), list);
  });
}

datasparse_status datasparse_load_checkpoint(const char* path, datasparse_sparsifier* sparsifier,
                                             datasparse_scheduler* const* schedulers, size_t count,
                                             int32_t strict) {
  return guarded([&] {
    items(schedulers, count, "schedulers");
    std::vector<BaseDataScheduler*> list;
    for (std::size_t i = 0; i < count; ++i) list.push_back(&object(schedulers[i]));
    load_checkpoint(text(path, "path"), *object(sparsifier), list, strict != 0);
  });
}
