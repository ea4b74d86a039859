#include "datasparse/data_source.hpp"

namespace datasparse {
namespace {

class FixedSource final : public DataSource {
 public:
  explicit FixedSource(const ArrayView& view) : view_(view) {}
  ArrayView pin() override { return view_; }
  void unpin() noexcept override {}

 private:
  ArrayView view_;
};

}  // namespace

std::shared_ptr<DataSource> make_source(const ArrayView& view) {
  return std::make_shared<FixedSource>(view);
}

}  // namespace datasparse
