// What the library allocates, and what happens where that fails. This program replaces operator
// new and the library's mmap: it counts, and refuses the n-th request when told to.

#include <malloc.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <new>
#include <thread>

#include "base/layout.hpp"
#include "datasparse/adaptive_data_scheduler.hpp"
#include "datasparse/apply_mask.hpp"
#include "datasparse/checkpoint.hpp"
#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/data_scheduler.hpp"
#include "datasparse/group_params.hpp"
#include "pretended_device.hpp"
#include "select/mask_engine.hpp"
#include "support.hpp"

namespace {

std::atomic<std::int64_t> requests{0}, refusable{0}, refused{-1}, bytes_now{0}, bytes_peak{0};

// Two integers, as in a sparse_block_shape: where copying a std::variant that holds such a list
// fails, the behaviour of libstdc++ 12 is undefined.
constexpr std::size_t spared = 2 * sizeof(std::int64_t);

bool is_refused() { return refusable++ == refused; }

void* allocate(std::size_t size, std::size_t alignment) {
  ++requests;
  if (size != spared && is_refused()) throw std::bad_alloc();
  const std::size_t rounded =
      (std::max<std::size_t>(size, 1) + alignment - 1) / alignment * alignment;
  void* const memory = alignment > alignof(std::max_align_t)
                           ? std::aligned_alloc(alignment, rounded)
                           : std::malloc(rounded);
  if (memory == nullptr) throw std::bad_alloc();
  const auto now = bytes_now += static_cast<std::int64_t>(malloc_usable_size(memory));
  if (now > bytes_peak) bytes_peak = now;
  return memory;
}

void release(void* memory) noexcept {
  if (memory == nullptr) return;
  bytes_now -= static_cast<std::int64_t>(malloc_usable_size(memory));
  std::free(memory);
}

}  // namespace

void* operator new(std::size_t size) { return allocate(size, 1); }
void* operator new[](std::size_t size) { return allocate(size, 1); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate(size, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return allocate(size, 1);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* memory) noexcept { release(memory); }
void operator delete[](void* memory) noexcept { release(memory); }
void operator delete(void* memory, std::size_t) noexcept { release(memory); }
void operator delete[](void* memory, std::size_t) noexcept { release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { release(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { release(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { release(memory); }

// The linker gives the library these for mmap() and munmap().
extern "C" void* __real_mmap(void*, std::size_t, int, int, int, off_t);
extern "C" int __real_munmap(void*, std::size_t);
extern "C" void* __wrap_mmap(void* at, std::size_t size, int protection, int flags, int file,
                             off_t offset) {
  ++requests;
  if (is_refused()) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  void* const memory = __real_mmap(at, size, protection, flags, file, offset);
  if (memory == MAP_FAILED) return memory;
  const auto now = bytes_now += static_cast<std::int64_t>(size);
  if (now > bytes_peak) bytes_peak = now;
  return memory;
}
extern "C" int __wrap_munmap(void* memory, std::size_t size) {
  bytes_now -= static_cast<std::int64_t>(size);
  return __real_munmap(memory, size);
}

namespace datasparse {
namespace {

template <class Work>
std::int64_t requests_of(const Work& work) {
  const std::int64_t before = requests;
  work();
  return requests - before;
}

/// The most memory that `work` holds beyond what is held now.
template <class Work>
std::int64_t peak_of(const Work& work) {
  const std::int64_t before = bytes_now;
  bytes_peak = before;
  work();
  return bytes_peak - before;
}

TEST(Allocation, ArrayViewsAndAxesAreCopiedWithoutAny) {
  float numbers[6] = {};
  EXPECT_EQ(requests_of([&numbers] {
              const ArrayView view(numbers, {1, 2, 3});
              const ArrayView copy = view;
              const Axes shape = copy.shape();
              EXPECT_EQ(element_count(shape), 6);
              EXPECT_TRUE(copy == view);
            }),
            0);
}

TEST(Allocation, ApplyMaskNeedsNone) {
  Tensor tensor(DType::float32, parallel_matrix(500));
  const Bytes mask(static_cast<std::size_t>(tensor.size()), 0);
  const ArrayView view = tensor.view();
  apply_mask(view, mask.data());
  const auto parts = requests_of([&] { apply_mask(view, mask.data()); });
  EXPECT_LE(parts, 4) << "the few axes, to see whether they overlap";
}

TEST(Allocation, BlockMaskHoldsOneMebibyteAThreadAndATenthOfTheData) {
  Random random(800);
  constexpr std::int64_t n = 1 << 21;
  Tensor tensor(DType::float32, {1024, n / 1024});
  fill(tensor, Values::numbers, random);
  Bytes mask(n);
  const std::vector<BlockSpec> specs{spec(0.5, 1, 1),        spec(0.5, 1, 4),
                                     spec(1, 1, 4, 2),       spec(0.5, 64, 64, 9),
                                     spec(0.5, 100, 100, 9), spec(0.5, -1, -1, 9)};
  for (const int threads : {1, 4}) {
    const Threads scope(threads);
    for (const auto& chosen : specs) {
      const auto peak = peak_of([&] { block_mask(tensor.view(), chosen, mask.data()); });
      EXPECT_LE(peak, threads * (1 << 20) + 4 * n / 10) << describe(tensor.view(), chosen);
    }
  }
}

/// Runs `attempt` while the first, the second, ... allocation fails, until it succeeds. After each
/// failure `check` is called. (Whether anything leaked, the address sanitizer tells.)
template <class Attempt, class Check>
void fail_every_allocation(const Attempt& attempt, const Check& check) {
  for (std::int64_t nth = 0;; ++nth) {
    ASSERT_LT(nth, 10000);
    bool failed = false;
    refused = refusable + nth;
    try {
      attempt();
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    refused = -1;
    if (!failed) {
      std::cout << "refused: " << nth << " allocations\n";
      return;
    }
    check(nth);
    if (::testing::Test::HasFailure()) return;
  }
}

/// Scratch memory stays with the thread: only a new one asks for all of it.
template <class Work>
void in_a_new_thread(const Work& work) {
  std::exception_ptr error;
  std::thread([&] {
    try {
      work();
    } catch (...) {
      error = std::current_exception();
    }
  }).join();
  if (error) std::rethrow_exception(error);
}

class OutOfMemory : public ::testing::Test {
 protected:
  OutOfMemory() : sparsifier(std::make_shared<DataNormSparsifier>(spec(0.5, 1, 1))) {
    Random random(801);
    for (const char* name : {"a", "b", "c"}) {
      tensors.emplace_back(DType::float32, Axes{30, 40});
      fill(tensors.back(), Values::numbers, random);
      sources.push_back(std::make_shared<CountingSource>(tensors.back().view()));
      sparsifier->add_data(name, sources.back());
    }
    sparsifier->step();
    GroupParams(*sparsifier).set("sparsity_level", {{"a", 0.9}, {"b", 0.1}, {"c", 0.3}});
  }

  /// Expects that `attempt` either succeeds or changes nothing, whichever allocation fails.
  template <class Attempt>
  void expect_all_or_nothing(const Attempt& attempt) {
    const auto before = sparsifier->save_state();
    fail_every_allocation(attempt, [&](std::int64_t nth) {
      EXPECT_EQ(sparsifier->save_state(), before) << "allocation " << nth;
      for (const auto& source : sources) EXPECT_EQ(source->pins, source->unpins);
    });
  }

  std::vector<Tensor> tensors;
  std::vector<std::shared_ptr<CountingSource>> sources;
  std::shared_ptr<DataNormSparsifier> sparsifier;
};

TEST_F(OutOfMemory, StepIsAllOrNothing) {
  expect_all_or_nothing([&] { sparsifier->step(); });
  EXPECT_EQ(sparsifier->step_count(), 2);
}

TEST_F(OutOfMemory, AStepOfWhichADeviceHasAPartIsAllOrNothing) {
  PretendedDevice device;
  const auto there = device.store({1, -2, 3, -4, 5, -6}, {2, 3});
  sparsifier->add_data("there", std::make_shared<Placed>(there, device));
  expect_all_or_nothing([&] { sparsifier->step(); });
  EXPECT_EQ(sparsifier->step_count(), 2);
  sparsifier->remove_data("there");
}

TEST_F(OutOfMemory, AStepThatLeavesNoWeightIsAllOrNothingAndWarnsIfItCan) {
  GroupParams(*sparsifier).set("sparsity_level", {{"a", 0.9999}, {"b", 0.1}, {"c", 0.3}});
  expect_all_or_nothing([&] { sparsifier->step(); });
  EXPECT_EQ(sparsifier->step_count(), 2);
}

TEST_F(OutOfMemory, AStepWithMuchScratchMemoryIsAllOrNothing) {
  Random random(802);
  Tensor rows(DType::float32, parallel_matrix(700));
  Tensor columns(DType::float64, {640, 500});
  fill(rows, Values::numbers, random);
  fill(columns, Values::few, random);
  sparsifier->add_data("rows", rows.view());
  sparsifier->add_data(
      "columns", ArrayView(columns.view().data(), DType::float64, {500, 640}, {8, 500 * 8}, true),
      spec(0.5, 2, 3, 4).to_config());
  sparsifier->add_data("large blocks", rows.view(), spec(0.5, -1, 300, 5000).to_config());
  for (const int threads : {1, 4}) {
    const Threads scope(threads);
    expect_all_or_nothing([&] {
      in_a_new_thread([&] {
        const Threads inner(threads);
        sparsifier->step();
      });
    });
  }
}

TEST_F(OutOfMemory, BlockMaskWritesAllOrNothing) {
  Bytes mask(1200, 7);
  const ArrayView view = tensors[0].view();
  fail_every_allocation([&] { block_mask(view, spec(0.5, 2, 2, 3), mask.data()); },
                        [&](std::int64_t) { EXPECT_EQ(mask, Bytes(1200, 7)); });
  EXPECT_EQ(mask, reference::mask(view, rules_of(spec(0.5, 2, 2, 3))));
}

TEST_F(OutOfMemory, MonotoneAndPermutedMasksAreWrittenAllOrNothing) {
  Random random(803);
  const Axes shape{40, 30, 3, 3}, layout{0, 2, 3, 1};
  Tensor tensor(DType::float32, shape);
  fill(tensor, Values::numbers, random);
  BlockSpec chosen = spec(0.5, 2, 3, 4);
  chosen.monotone = true;
  reference::Past past;
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    past.mask.push_back(random.one_in(6) ? 0 : 1);
    past.stays_zero.push_back(random.one_in(6));
  }
  const Bytes bits = packed_bits(past.stays_zero);
  Bytes mask = past.mask;
  const std::vector<MaskJob> jobs{{tensor.view(), chosen.resolved(viewed_shape(shape, layout)),
                                   mask.data(), nullptr, layout, bits.data()}};
  fail_every_allocation(
      [&] { in_a_new_thread([&] { compute_masks(jobs); }); },
      [&](std::int64_t nth) { EXPECT_EQ(mask, past.mask) << "allocation " << nth; });
  EXPECT_EQ(mask, reference::mask(tensor.view(), rules_of(chosen), layout, past));
}

TEST_F(OutOfMemory, AddDataIsAllOrNothing) {
  const auto source = make_source(tensors[0].view());
  const Bytes mask(1200, 0);
  expect_all_or_nothing([&] { sparsifier->add_data("new", source, {{"norm", "L2"}}); });
  expect_all_or_nothing(
      [&] { sparsifier->add_data("a", source, {{"norm", "L2"}}, true, mask.data()); });
}

TEST_F(OutOfMemory, ConfigsAreWrittenAllOrNone) {
  expect_all_or_nothing(
      [&] { GroupParams(*sparsifier).set("sparsity_level", {{"c", 0.2}, {"a", 0.4}}); });
  const std::string name = "a name that is not short", other = "another name, which is longer";
  GroupParams(*sparsifier).set("pool", {{"a", name}, {"b", name}});
  const ParamMap others = {{"a", other}, {"b", other}};
  expect_all_or_nothing([&] { GroupParams(*sparsifier).set("pool", others); });
  expect_all_or_nothing([&] { sparsifier->update_config("a", {{"norm", "L2"}}); });
  expect_all_or_nothing([&] { GroupParams(*sparsifier).replace({{"a", {{"norm", "L2"}}}}); });
  expect_all_or_nothing([&] { sparsifier->replace_defaults(DataNormSparsifier().defaults()); });
  expect_all_or_nothing([&] { sparsifier->replace_state("a", {{"a key that is not short", 1}}); });
  const auto add_key = [](ParamMap& map) { map.set("another key that is not short", 1); };
  expect_all_or_nothing([&] { GroupParams(*sparsifier).change_state("a", add_key); });
  expect_all_or_nothing([&] {
    GroupParams(*sparsifier).change_defaults([](ParamMap& map) { map.set("norm", "L2"); });
  });
}

TEST_F(OutOfMemory, SquashIsAllOrNothing) {
  const std::vector<std::string> names{"a", "c"};
  const auto is_written = [&] {
    return std::any_of(sources.begin(), sources.end(), [](const auto& s) { return s->writes > 0; });
  };
  const auto before = sparsifier->save_state();
  fail_every_allocation([&] { sparsifier->squash_mask(names); },
                        [&](std::int64_t nth) {
                          EXPECT_EQ(sparsifier->save_state(), before) << "allocation " << nth;
                          EXPECT_FALSE(is_written()) << "allocation " << nth;
                        });
  EXPECT_TRUE(sparsifier->squashed("a"));
}

TEST_F(OutOfMemory, RemoveIsAllOrNothing) {
  expect_all_or_nothing([&] { sparsifier->remove_data("b"); });
}

TEST_F(OutOfMemory, LoadIsAllOrNothing) {
  sparsifier->squash_mask({"b"});
  auto state = sparsifier->save_state();
  state.step_count = 77;
  for (auto& group : state.groups) group.config.set("sparsity_level", 0.25);
  for (const char* name : {"waiting", "squashed"}) {
    state.groups.push_back(state.groups[0]);
    state.groups.back().name = name;
    state.groups.back().squashed = std::string(name) == "squashed";
  }
  expect_all_or_nothing([&] { sparsifier->load_state(state, false); });
  EXPECT_EQ(sparsifier->step_count(), 77);
  EXPECT_TRUE(sparsifier->squashed("squashed"));
}

TEST_F(OutOfMemory, ASchedulersStepIsAllOrNothing) {
  struct Halving : BaseDataScheduler {
    explicit Halving(std::shared_ptr<BaseDataSparsifier> owner)
        : BaseDataScheduler(std::move(owner), "sparsity_level") {}
    ParamMap get_schedule_param() override {
      ParamMap values;
      for (const auto& [name, level] : GroupParams(*data_sparsifier()).get("sparsity_level")) {
        values.set(name, 0.5 * level.as_number(schedule_param(), name));
      }
      return values;
    }
  };
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  const auto own = scheduler->save_state();
  const auto before = sparsifier->save_state();
  fail_every_allocation([&] { scheduler->step(); },
                        [&](std::int64_t nth) {
                          EXPECT_EQ(scheduler->last_epoch(), own.last_epoch);
                          EXPECT_EQ(scheduler->base_param(), own.base_param);
                          EXPECT_EQ(scheduler->get_last_param(), own.last_param);
                          EXPECT_EQ(sparsifier->save_state(), before) << "allocation " << nth;
                        });
}

TEST_F(OutOfMemory, TheFirstStepOfASchedulerThatWasMadeBeforeAnyGroupIsAllOrNothing) {
  const auto late = std::make_shared<DataNormSparsifier>();
  const auto scheduler =
      make_scheduler<DataScheduler>(late, "sparsity_level", schedules::Constant{0.25});
  late->add_data("a group whose name is not short", tensors[0].view());
  const auto own = scheduler->save_state();
  const auto before = late->save_state();
  fail_every_allocation([&] { scheduler->step(); },
                        [&](std::int64_t nth) {
                          EXPECT_EQ(scheduler->last_epoch(), own.last_epoch);
                          EXPECT_EQ(scheduler->get_last_param(), own.last_param);
                          EXPECT_EQ(late->save_state(), before) << "allocation " << nth;
                        });
  EXPECT_EQ(scheduler->get_last_param().size(), 1U);
}

TEST_F(OutOfMemory, AnAdaptiveSchedulersStepIsAllOrNothing) {
  const auto scheduler = make_scheduler<AdaptiveDataScheduler>(
      sparsifier, "sparsity_level",
      DataScheduler::Schedules{{"a", schedules::Constant{0.3}},
                               {"*", schedules::Linear{{0.0, 0.5, 0, 4}}}},
      AdaptiveRule());
  scheduler->step(1);
  sparsifier->remove_data("a");
  const auto own = scheduler->save_state();
  const auto before = sparsifier->save_state();
  fail_every_allocation([&] { scheduler->step(0.5); },
                        [&](std::int64_t nth) {
                          EXPECT_EQ(scheduler->last_epoch(), own.last_epoch);
                          EXPECT_EQ(scheduler->base_param(), own.base_param);
                          EXPECT_EQ(scheduler->get_last_param(), own.last_param);
                          EXPECT_EQ(scheduler->save_state().own, own.own);
                          EXPECT_EQ(sparsifier->save_state(), before) << "allocation " << nth;
                        });
}

TEST_F(OutOfMemory, ACheckpointIsLoadedAllOrNothingAndSavedAllOrNothing) {
  struct Still : BaseDataScheduler {
    explicit Still(std::shared_ptr<BaseDataSparsifier> owner)
        : BaseDataScheduler(std::move(owner), "sparsity_level") {}
    ParamMap get_schedule_param() override { return {}; }
    Attributes attributes() const override { return {{"mood", mood}}; }
    std::function<void()> prepare_attributes(const Attributes& saved) override {
      return [this, loaded = attribute<std::int64_t>(saved, "mood")] { mood = loaded; };
    }
    std::int64_t mood = 1;
  };
  const auto scheduler = make_scheduler<Still>(sparsifier);
  char folder[] = "/tmp/datasparse-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/checkpoint";
  const auto content = [](const std::string& from) {
    std::ifstream file(from, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  save_checkpoint(path, *sparsifier, {scheduler.get()});
  const std::string old = content(path);
  sparsifier->squash_mask({"b"});
  scheduler->step();
  scheduler->mood = 2;
  fail_every_allocation([&] { save_checkpoint(path, *sparsifier, {scheduler.get()}); },
                        [&](std::int64_t nth) {
                          EXPECT_TRUE(content(path) == old) << "allocation " << nth;
                          const std::filesystem::directory_iterator files(folder);
                          EXPECT_EQ(std::distance(begin(files), end(files)), 1)
                              << "allocation " << nth;
                        });
  const std::string squashed = content(path);

  const auto own = scheduler->save_state();
  const auto before = sparsifier->save_state();
  std::ofstream(path, std::ios::binary | std::ios::trunc) << old;
  fail_every_allocation([&] { load_checkpoint(path, *sparsifier, {scheduler.get()}); },
                        [&](std::int64_t nth) {
                          EXPECT_EQ(sparsifier->save_state(), before) << "allocation " << nth;
                          EXPECT_EQ(scheduler->last_epoch(), own.last_epoch);
                          EXPECT_EQ(scheduler->mood, 2);
                        });
  EXPECT_EQ(scheduler->mood, 1);

  // Into an empty sparsifier, where a group comes squashed and others wait.
  std::ofstream(path, std::ios::binary | std::ios::trunc) << squashed;
  DataNormSparsifier empty;
  const auto nothing = empty.save_state();
  fail_every_allocation(
      [&] { load_checkpoint(path, empty, {}, false); },
      [&](std::int64_t nth) { EXPECT_EQ(empty.save_state(), nothing) << "allocation " << nth; });
  EXPECT_EQ(empty.names(), (std::vector<std::string>{"b"}));
  EXPECT_EQ(std::system(("rm -r " + std::string(folder)).c_str()), 0);
}

TEST_F(OutOfMemory, AParamMapStaysWhole) {
  for (std::size_t size = 14; size < 20; ++size) {
    ParamMap map;
    for (std::size_t i = 0; i < size; ++i) map.set(std::to_string(i), 1);
    const ParamMap before = map;
    const auto is_whole = [&](std::int64_t nth) {
      EXPECT_EQ(map, before) << "size " << size << ", allocation " << nth;
      for (const auto& item : before) EXPECT_TRUE(map.contains(item.first));
    };
    const std::string key = "a key that does not fit into a short string";
    fail_every_allocation([&] { map.set(key, "a value that does not fit either"); }, is_whole);
    const ParamMap after = map;
    fail_every_allocation([&] { map.erase("3"); },
                          [&](std::int64_t nth) { EXPECT_EQ(map, after) << "allocation " << nth; });
  }
}

}  // namespace
}  // namespace datasparse
