/// What stands behind the handles.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "c_abi/status.hpp"
#include "datasparse/data_scheduler.hpp"
#include "datasparse/data_sparsifier.hpp"
#include "datasparse/datasparse.h"
#include "datasparse/group_table.hpp"

struct datasparse_sparsifier {
  std::shared_ptr<datasparse::BaseDataSparsifier> object;
};

struct datasparse_scheduler {
  std::shared_ptr<datasparse::BaseDataScheduler> object;
};

struct datasparse_schedule {
  datasparse::Schedule value;
};

struct datasparse_mask {
  datasparse::Mask value;
};

struct datasparse_names {
  std::vector<std::string> items;
};

struct datasparse_report {
  std::vector<datasparse::GroupFigures> groups;
};

namespace datasparse::c_abi {

// By value: a callback may release the handle of the object that is calling it.
inline std::shared_ptr<BaseDataSparsifier> object(const datasparse_sparsifier* handle) {
  return required(handle, "sparsifier").object;
}
inline std::shared_ptr<BaseDataScheduler> object(const datasparse_scheduler* handle) {
  return required(handle, "scheduler").object;
}

}  // namespace datasparse::c_abi
