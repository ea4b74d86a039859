#include "datasparse/checkpoint.hpp"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <thread>

#include "checkpoint/checkpoint_format.hpp"
#include "checkpoint/json.hpp"
#include "datasparse/adaptive_data_scheduler.hpp"
#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/error.hpp"
#include "datasparse/group_params.hpp"
#include "datasparse/group_table.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

namespace fs = std::filesystem;

/// A scheduler whose next value depends on what it keeps of its own.
class Ramp : public BaseDataScheduler {
 public:
  explicit Ramp(std::shared_ptr<BaseDataSparsifier> sparsifier)
      : BaseDataScheduler(std::move(sparsifier), "sparsity_level") {}

  ParamMap get_schedule_param() override {
    speed *= 0.75;
    ParamMap values;
    for (const auto& item : base_param()) values.set(item.first, speed);
    return values;
  }

  Attributes attributes() const override { return {{"speed", speed}}; }
  std::function<void()> prepare_attributes(const Attributes& saved) override {
    const double loaded = attribute<double>(saved, "speed");
    return [this, loaded] { speed = loaded; };
  }

  double speed = 1.0;
};

/// A scheduler that leaves everything as it is.
class Still : public BaseDataScheduler {
 public:
  using BaseDataScheduler::BaseDataScheduler;
  ParamMap get_schedule_param() override { return {}; }
};

std::string file_content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

/// A checkpoint with one of everything in it, and objects made as those that it was saved from.
class CheckpointFile : public ::testing::Test {
 protected:
  struct Objects {
    Objects() : sparsifier(std::make_shared<DataNormSparsifier>(spec(0.5, 1, 1))) {
      Random random(1000);
      for (const char* const name : {"fc1.weight", "\u00e9 \" $", "last"}) {
        tensors.emplace_back(
            std::make_unique<Tensor>(DType::float32, tensors.empty() ? Axes{5, 7} : Axes{11}));
        fill(*tensors.back(), Values::numbers, random);
        std::fill_n(tensors.back()->memory().begin(), 3 * sizeof(float), std::uint8_t{0});
        sparsifier->add_data(name, tensors.back()->view());
      }
      scheduler = make_scheduler<Ramp>(sparsifier);
    }

    /// Everything, as text that compares.
    std::string state() const {
      const Checkpoint now = take_checkpoint(*sparsifier, {scheduler.get()});
      std::string text = encode_header(now);
      for (const auto& group : now.sparsifier.groups) {
        text.append(group.mask_bits.begin(), group.mask_bits.end());
        text.append(group.kept_zeros.begin(), group.kept_zeros.end());
        for (const auto& item : group.arrays) {
          text.append(reinterpret_cast<const char*>(item.second.data()), item.second.byte_count());
        }
      }
      return text;
    }
    void step() {
      sparsifier->step();
      scheduler->step();
    }

    std::vector<std::unique_ptr<Tensor>> tensors;
    std::shared_ptr<DataNormSparsifier> sparsifier;
    std::shared_ptr<Ramp> scheduler;
  };

  CheckpointFile() {
    std::string pattern = (fs::temp_directory_path() / "datasparse-XXXXXX").string();
    folder = ::mkdtemp(pattern.data());
    path = (folder / "checkpoint").string();
    GroupOptions sparse, still;
    sparse.layout = Axes{1, 0};
    sparse.keep_zeros = true;
    still.update = false;
    for (const auto& [index, name, options] :
         {std::tuple(0, "fc1.weight", sparse), std::tuple(1, "\u00e9 \" $", still)}) {
      saved.sparsifier->add_data(
          name, make_source(saved.tensors[static_cast<std::size_t>(index)]->view()), {}, true,
          nullptr, options);
    }
    saved.sparsifier->update_config("last", {{"norm", "L2"}, {"sparse_block_shape", ints(-1, 1)}});
    saved.sparsifier->replace_state(
        "last", {{"count", 3},
                 {"none", {}},
                 {"floats", ParamValue::Floats{1.0, std::numeric_limits<double>::infinity()}},
                 {"no ints", ParamValue::Ints{}},
                 {"no floats", ParamValue::Floats{}},
                 {"$latin", "\xE9"}});
    saved.step();
    saved.step();
    saved.sparsifier->squash_mask({"last"});
    saved.sparsifier->set_enable_mask_update(false);
    save(saved);
  }
  ~CheckpointFile() override { fs::remove_all(folder); }

  static ParamValue ints(std::int64_t a, std::int64_t b) { return ParamValue::Ints{a, b}; }
  void save(const Objects& objects) const {
    save_checkpoint(path, *objects.sparsifier, {objects.scheduler.get()});
  }
  void load(Objects& objects, bool strict = true) const {
    load_checkpoint(path, *objects.sparsifier, {objects.scheduler.get()}, strict);
  }
  /// Expects that the file as it is now is refused, and nothing changes; returns the message behind
  /// the file's name.
  std::string refusal() {
    Objects objects;
    objects.step();
    const std::string before = objects.state();
    const std::string message = message_of<ValueError>([&] { load(objects); });
    EXPECT_TRUE(objects.state() == before);
    const std::string name = "cannot load '" + path + "': ";
    EXPECT_EQ(message.rfind(name, 0), 0U) << message;
    return message.substr(std::min(name.size(), message.size()));
  }

  fs::path folder;
  std::string path;
  Objects saved;
};

TEST_F(CheckpointFile, BringsEverythingBack) {
  Objects objects;
  ASSERT_TRUE(objects.state() != saved.state());
  const Mask mask = objects.sparsifier->get_mask("fc1.weight");
  load(objects);
  EXPECT_EQ(objects.sparsifier->save_state(), saved.sparsifier->save_state());
  EXPECT_TRUE(objects.state() == saved.state());
  EXPECT_EQ(objects.scheduler->speed, saved.scheduler->speed);
  EXPECT_TRUE(objects.sparsifier->squashed("last"));
  EXPECT_EQ(bytes_of(mask), bytes_of(saved.sparsifier->get_mask("fc1.weight")))
      << "in the memory that was there";
}

TEST_F(CheckpointFile, HoldsWhatAStepCounts) {
  for (const bool counts : {true, false}) {
    saved.scheduler->set_counts_renewals(counts);
    save(saved);
    Objects objects;
    objects.scheduler->set_counts_renewals(!counts);
    load(objects);
    EXPECT_EQ(objects.scheduler->counts_renewals(), counts);
  }
}

TEST_F(CheckpointFile, GoesOnAsTheOtherWouldHave) {
  Objects objects;
  load(objects);
  for (auto* each : {&objects, &saved}) {
    each->sparsifier->set_enable_mask_update(true);
    for (int i = 0; i < 3; ++i) each->step();
  }
  EXPECT_TRUE(objects.state() == saved.state());
}

TEST_F(CheckpointFile, HoldsWhatWasWritten) {
  const Checkpoint read = read_checkpoint(path);
  EXPECT_EQ(read.sparsifier, saved.sparsifier->save_state());
  write_checkpoint(path + "2", read);
  EXPECT_TRUE(file_content(path + "2") == file_content(path));
}

TEST_F(CheckpointFile, IntoAnEmptySparsifierWaitsForData) {
  const auto sparsifier = std::make_shared<DataNormSparsifier>();
  const auto scheduler = make_scheduler<Ramp>(sparsifier);
  load_checkpoint(path, *sparsifier, {scheduler.get()});
  EXPECT_EQ(sparsifier->names(), (std::vector<std::string>{"last"})) << "which was squashed";
  sparsifier->add_data("fc1.weight", saved.tensors[0]->view());
  EXPECT_EQ(bytes_of(sparsifier->get_mask("fc1.weight")),
            bytes_of(saved.sparsifier->get_mask("fc1.weight")));
}

TEST_F(CheckpointFile, HasTheConfigsThatWereThereNotTheSchedulersLastOnes) {
  saved.sparsifier->update_config("fc1.weight", {{"sparsity_level", 0.625}});
  save(saved);
  Objects objects;
  load(objects);
  EXPECT_EQ(objects.sparsifier->config_value("fc1.weight", "sparsity_level"), ParamValue(0.625));
  EXPECT_EQ(*objects.scheduler->get_last_param().find("fc1.weight"),
            *saved.scheduler->get_last_param().find("fc1.weight"));
}

TEST_F(CheckpointFile, TakesOneBitPerElementAndAKilobyte) {
  Tensor tensor(DType::float32, {1000, 1000});
  DataNormSparsifier sparsifier;
  sparsifier.add_data("w", tensor.view());
  sparsifier.step();
  save_checkpoint(path, sparsifier);
  EXPECT_LE(fs::file_size(path), 125'000U + 1000U);
}

TEST_F(CheckpointFile, OfNothingIsOneToo) {
  DataNormSparsifier empty;
  save_checkpoint(path, empty);
  DataNormSparsifier other(spec(0.25, 1, 1));
  load_checkpoint(path, other);
  EXPECT_EQ(other.save_state(), empty.save_state());
}

TEST_F(CheckpointFile, OfShapesOfAllKinds) {
  DataNormSparsifier sparsifier, other;
  std::vector<std::unique_ptr<Tensor>> tensors;
  for (const auto& shape :
       {Axes{}, Axes{0}, Axes{1}, Axes{0, 3}, Axes{8}, Axes{9}, Axes{1, 2, 1, 3, 1, 2, 1}}) {
    tensors.push_back(std::make_unique<Tensor>(DType::float64, shape));
    sparsifier.add_data(to_string(shape), tensors.back()->view());
    other.add_data(to_string(shape), tensors.back()->view());
  }
  sparsifier.step();
  save_checkpoint(path, sparsifier);
  load_checkpoint(path, other);
  EXPECT_EQ(other.save_state(), sparsifier.save_state());
}

// Pieces of two megabytes are summed up on another thread while the next one is read.
TEST(LargeCheckpoint, IsReadAndCheckedInPieces) {
  constexpr std::size_t bytes = 5'000'000;
  constexpr std::size_t piece = std::size_t{2} << 20;
  Random random(1001);
  Checkpoint checkpoint;
  GroupState group;
  group.name = "w";
  group.shape = Axes{static_cast<std::int64_t>(8 * bytes)};
  group.mask_bits.resize(bytes);
  for (auto& byte : group.mask_bits) byte = static_cast<std::uint8_t>(random.bits());
  checkpoint.sparsifier.groups.push_back(group);

  std::string file = encode_header(checkpoint);
  const std::size_t data = file.size();
  file.append(group.mask_bits.begin(), group.mask_bits.end());
  std::size_t unreadable = file.size();  // from which byte on
  const auto decode = [&] {
    return decode_checkpoint(file.size(), [&](std::uint64_t offset, void* to, std::size_t size) {
      if (offset + size > unreadable) throw FileError("cannot read", "w", EIO);
      std::memcpy(to, file.data() + offset, size);
    });
  };
  EXPECT_TRUE(decode().sparsifier.groups.front().mask_bits == group.mask_bits);

  for (const std::size_t place : {std::size_t{0}, piece - 1, piece, 2 * piece + 1, bytes - 1}) {
    file[data + place] ^= 1;
    EXPECT_THROW(decode(), ValueError) << place;
    file[data + place] ^= 1;
  }
  for (const std::size_t readable : {std::size_t{0}, piece, 2 * piece}) {
    unreadable = data + readable;
    EXPECT_THROW(decode(), FileError) << readable;
  }
}

// Those of version 1 were written by datasparse 0.1.0.
TEST_F(CheckpointFile, OfEverySeedIsReadAndWrittenAsItWas) {
  int seeds[3] = {};
  for (const auto& seed : fs::directory_iterator(DATASPARSE_FUZZ_SEEDS)) {
    Checkpoint read = read_checkpoint(seed.path().string());
    const auto version = read.sparsifier.version;
    write_checkpoint(path, read);
    if (version == SparsifierState::current_version) {
      EXPECT_TRUE(file_content(path) == file_content(seed.path().string())) << seed.path();
    } else {
      read.sparsifier.version = SparsifierState::current_version;
      EXPECT_EQ(read_checkpoint(path).sparsifier, read.sparsifier) << seed.path();
    }
    for (const auto& scheduler : read.schedulers) {
      EXPECT_EQ(scheduler.state.version, SchedulerState::current_version) << seed.path();
      EXPECT_TRUE(version > 1 || scheduler.state.counts_renewals) << seed.path();
    }
    for (const auto& group : read.sparsifier.groups) {
      const bool plain = group.layout.size() == 0 && group.kept_zeros.empty() && group.updates;
      EXPECT_TRUE(version > 1 || plain) << seed.path();
    }
    ++seeds[version];
  }
  EXPECT_GE(seeds[1], 6);
  EXPECT_GE(seeds[2], 1);
}

TEST_F(CheckpointFile, BringsLayoutsZerosThatStayAndFrozenMasksBack) {
  Objects objects;
  load(objects);
  EXPECT_EQ(GroupTable(*objects.sparsifier).row("fc1.weight").layout, (Axes{1, 0}));
  EXPECT_TRUE(GroupTable(*objects.sparsifier).row("\u00e9 \" $").frozen);
  const auto state = objects.sparsifier->save_state();
  EXPECT_EQ(state.groups[0].kept_zeros, (Bytes{0x07, 0, 0, 0, 0}));
  EXPECT_TRUE(state.groups[1].kept_zeros.empty());
}

TEST_F(CheckpointFile, OfVersion1LoadsIntoObjectsThatHaveMore) {
  const std::string seed = std::string(DATASPARSE_FUZZ_SEEDS) + "/group";
  DataNormSparsifier sparsifier;
  float numbers[15] = {};
  GroupOptions options;
  options.layout = Axes{1, 0};
  options.keep_zeros = true;
  options.update = false;
  sparsifier.add_data("w", make_source(ArrayView(numbers, {3, 5})), {}, true, nullptr, options);
  load_checkpoint(seed, sparsifier);
  const GroupState group = sparsifier.save_state().groups[0];
  EXPECT_EQ(group.layout, Axes());
  EXPECT_TRUE(group.kept_zeros.empty());
  EXPECT_TRUE(group.updates);
  EXPECT_EQ(group.config.at("sparsity_level"), ParamValue(0.2));
}

/// Two adaptive schedulers of one sparsifier, which a metric has moved.
class AdaptiveCheckpoint : public CheckpointFile {
 protected:
  struct Pair {
    Pair() : sparsifier(std::make_shared<DataNormSparsifier>(spec(0.8, 1, 1))) {
      sparsifier->add_data("w", ArrayView(numbers, {3, 5}));
      for (auto& scheduler : schedulers) {
        scheduler = make_scheduler<AdaptiveDataScheduler>(
            sparsifier, "sparsity_level",
            DataScheduler::Schedules{{"*", schedules::Linear{{0.0, 0.5, 0, 9}}}}, AdaptiveRule());
      }
    }
    void step(double metric) {
      sparsifier->step();
      for (const auto& scheduler : schedulers) scheduler->step(metric++);
    }
    std::vector<BaseDataScheduler*> both() const {
      return {schedulers[0].get(), schedulers[1].get()};
    }
    Checkpoint take() const {
      return take_checkpoint(*sparsifier, {schedulers[0].get(), schedulers[1].get()});
    }
    std::string state() const { return encode_header(take()); }

    float numbers[15] = {};
    std::shared_ptr<DataNormSparsifier> sparsifier;
    std::shared_ptr<AdaptiveDataScheduler> schedulers[2];
  };
};

TEST_F(AdaptiveCheckpoint, GoesOnFromWhereTheMetricsHadLed) {
  Pair first;
  for (const double metric : {3.0, 2.0, 4.0, 1.0}) first.step(metric);
  save_checkpoint(path, *first.sparsifier, {first.schedulers[0].get(), first.schedulers[1].get()});
  Pair second;
  load_checkpoint(path, *second.sparsifier, second.both());
  EXPECT_EQ(second.state(), first.state());
  EXPECT_EQ(second.schedulers[0]->position(), 2);
  for (const double metric : {1.0, 7.0, 0.5}) {
    first.step(metric);
    second.step(metric);
    EXPECT_EQ(second.state(), first.state());
  }
}

TEST_F(AdaptiveCheckpoint, ThatTheLastSchedulerRefusesChangesNone) {
  Pair first;
  first.step(1.0);
  Checkpoint checkpoint = first.take();
  checkpoint.schedulers[1].state.own.set("position", -1);
  Pair second;
  const std::string before = second.state();
  EXPECT_EQ(message_of<ValueError>(
                [&] { restore_checkpoint(checkpoint, *second.sparsifier, second.both()); }),
            "scheduler 1: position of the state must be an integer in [0, 9], got -1");
  EXPECT_EQ(second.state(), before);
}

TEST_F(AdaptiveCheckpoint, WithoutWhatASchedulerKeepsIsRefused) {
  Pair first;
  first.step(1.0);
  Checkpoint checkpoint = first.take();
  checkpoint.schedulers[0].state.own = {};
  Pair second;
  const std::string before = second.state();
  EXPECT_EQ(message_of<ValueError>(
                [&] { restore_checkpoint(checkpoint, *second.sparsifier, second.both()); }),
            "scheduler 0: own of the state has no entry 'position'");
  EXPECT_EQ(second.state(), before);
}

// --- calls that are refused -------------------------------------------------------------------

TEST_F(CheckpointFile, IsOfOneSparsifierAndItsSchedulers) {
  const std::string before = file_content(path);
  Objects other;
  auto* const scheduler = saved.scheduler.get();
  const auto message = [&](const std::vector<BaseDataScheduler*>& schedulers) {
    const std::string of_save = message_of<ValueError>(
        [&] { save_checkpoint(path, *saved.sparsifier, {schedulers.begin(), schedulers.end()}); });
    EXPECT_TRUE(file_content(path) == before);
    return of_save;
  };
  EXPECT_EQ(message({other.scheduler.get()}),
            "schedulers must drive the sparsifier that is given, got one of 'sparsity_level' that "
            "drives another");
  EXPECT_EQ(message({scheduler, scheduler}), "schedulers must be different ones, got one twice");
  EXPECT_EQ(message({nullptr}), "schedulers must not be null");
}

TEST_F(CheckpointFile, HasAsManySchedulersAsAreLoaded) {
  Objects objects;
  const auto second = make_scheduler<Still>(objects.sparsifier, "zeros_per_block");
  const std::string before = objects.state();
  auto* const first = objects.scheduler.get();
  const auto message = [&](const std::vector<BaseDataScheduler*>& schedulers, bool strict) {
    const auto text = message_of<ValueError>(
        [&] { load_checkpoint(path, *objects.sparsifier, schedulers, strict); });
    EXPECT_TRUE(objects.state() == before);
    return text.substr(text.find("': ") + 3);
  };
  EXPECT_EQ(message({}, true),
            "schedulers must be as many as the checkpoint holds, 1, got 0; pass strict=False to "
            "load the first ones");
  EXPECT_EQ(message({first, second.get()}, false),
            "schedulers must be as many as the checkpoint holds, 1, got 2");
  EXPECT_EQ(message({second.get()}, true),
            "scheduler 0: schedule_param of the state must be 'zeros_per_block', got "
            "'sparsity_level'");
  load_checkpoint(path, *objects.sparsifier, {}, false);
  EXPECT_EQ(objects.sparsifier->save_state(), saved.sparsifier->save_state());
}

TEST_F(CheckpointFile, IsNotTakenOrLoadedFromInsideAnOverride) {
  double numbers[3] = {};
  std::string messages;
  Scripted sparsifier([&](Scripted& self, const std::string&, const ArrayView&) {
    messages += message_of<StateError>([&] { save_checkpoint(path, self); });
    messages += "; " + message_of<StateError>([&] { load_checkpoint(path, self, {}, false); });
  });
  sparsifier.add_data("a", ArrayView(numbers, {3}));
  sparsifier.step();
  EXPECT_EQ(messages,
            "saving a checkpoint must not be called from inside update_mask() of the same "
            "sparsifier; loading a checkpoint must not be called from inside update_mask() of the "
            "same sparsifier");
}

TEST_F(CheckpointFile, HasNamesInUtf8) {
  double numbers[3] = {};
  DataNormSparsifier sparsifier;
  sparsifier.add_data("caf\xE9", ArrayView(numbers, {3}));
  const std::string before = file_content(path);
  EXPECT_EQ(message_of<ValueError>([&] { save_checkpoint(path, sparsifier); }),
            "name of data must be UTF-8 to be saved, got {\"$bytes\":\"636166e9\"}");
  EXPECT_TRUE(file_content(path) == before);
}

TEST_F(CheckpointFile, HasAPathWithoutNul) {
  const std::string cut = path + std::string("\0x", 2);
  const std::string before = file_content(path);
  Objects objects;
  for (const auto& call :
       {std::function<void()>([&] { save_checkpoint(cut, *saved.sparsifier); }),
        std::function<void()>([&] { load_checkpoint(cut, *objects.sparsifier); })}) {
    EXPECT_NE(message_of<ValueError>(call).find("path must hold no NUL"), std::string::npos);
  }
  EXPECT_TRUE(file_content(path) == before);
}

TEST_F(CheckpointFile, HoldsNoAttributeTwice) {
  Checkpoint checkpoint = read_checkpoint(path);
  const std::string before = file_content(path);
  checkpoint.attributes = {{"mood", 1}, {"mood", 2}};
  EXPECT_EQ(message_of<ValueError>([&] { write_checkpoint(path, checkpoint); }),
            "attributes must hold 'mood' once, got it twice");
  EXPECT_TRUE(file_content(path) == before);
}

TEST_F(CheckpointFile, HasAsManyStepsAsCanBeCounted) {
  auto state = saved.sparsifier->save_state();
  state.step_count = std::int64_t{1} << 53;
  saved.sparsifier->load_state(state);
  ++state.step_count;
  EXPECT_EQ(message_of<ValueError>([&] { saved.sparsifier->load_state(state); }),
            "step_count of the state must be in [0, 2^53], got 9007199254740993");
}

/// Groups of these names, whose level rises from 0 to 0.8 in four steps.
std::pair<std::shared_ptr<DataNormSparsifier>, std::shared_ptr<DataScheduler>> rising(
    double* numbers, const std::vector<std::string>& names) {
  const auto sparsifier = std::make_shared<DataNormSparsifier>(spec(0.8, 1, 1));
  for (const auto& name : names) sparsifier->add_data(name, ArrayView(numbers, {20}));
  const Schedule schedule = schedules::Linear{{0.0, {}, 0, 4, 1}};
  return {sparsifier,
          make_scheduler<DataScheduler>(sparsifier, "sparsity_level", schedule, -1, false)};
}

/// A group may get its data when the schedule has gone on: what it came with still counts.
TEST_F(CheckpointFile, KeepsTheBaseOfGroupsThatComeLate) {
  double numbers[20] = {};
  const auto [sparsifier, scheduler] = rising(numbers, {"a", "b"});
  for (int i = 0; i < 2; ++i) {
    sparsifier->step();
    scheduler->step();
  }
  save_checkpoint(path, *sparsifier, {scheduler.get()});
  for (const bool saved_again : {false, true}) {
    auto [late, resumed] = rising(numbers, {});
    load_checkpoint(path, *late, {resumed.get()});
    late->add_data("a", ArrayView(numbers, {20}));
    late->step();
    resumed->step();
    EXPECT_EQ(resumed->base_param(), (ParamMap{{"a", 0.8}}));
    if (saved_again) {  // what still waits is saved
      save_checkpoint(path, *late, {resumed.get()});
      std::tie(late, resumed) = rising(numbers, {});
      load_checkpoint(path, *late, {resumed.get()});
      late->add_data("a", ArrayView(numbers, {20}));
    }
    late->add_data("b", ArrayView(numbers, {20}));
    late->step();
    resumed->step();
    EXPECT_EQ(resumed->base_param(), (ParamMap{{"a", 0.8}, {"b", 0.8}}));
    EXPECT_EQ(GroupParams(*late).get("sparsity_level"), (ParamMap{{"a", 0.8}, {"b", 0.8}}));
    resumed->set_base_param({{"b", 0.7}});
    EXPECT_EQ(resumed->save_state().base_param, resumed->base_param());
    late->remove_data("b");  // what was removed is forgotten
    resumed->step();
    late->add_data("b", ArrayView(numbers, {20}), {{"sparsity_level", 0.3}});
    resumed->step();
    EXPECT_EQ(resumed->base_param(), (ParamMap{{"a", 0.8}, {"b", 0.3}}));
  }
}

TEST_F(CheckpointFile, ForgetsTheBaseOfGroupsThatNobodyAwaits) {
  double numbers[20] = {};
  const auto [sparsifier, scheduler] = rising(numbers, {"a", "b"});
  save_checkpoint(path, *sparsifier, {scheduler.get()});
  const auto [late, resumed] = rising(numbers, {});
  load_checkpoint(path, *late, {resumed.get()});
  late->add_data("a", ArrayView(numbers, {20}));
  EXPECT_EQ(resumed->base_param(), (ParamMap{{"a", 0.8}, {"b", 0.8}}));
  resumed->set_base_param(resumed->base_param());  // one that is awaited is known
  late->step();
  resumed->step();
  late->load_state(rising(numbers, {"a"}).first->save_state());  // without "b"
  resumed->step();
  late->add_data("b", ArrayView(numbers, {20}), {{"sparsity_level", 0.1}});
  resumed->step();
  EXPECT_EQ(*resumed->base_param().find("b"), ParamValue(0.1));
}

TEST_F(CheckpointFile, IsRefusedWhereAnAttributeIsNotWhatItsClassExpects) {
  Checkpoint checkpoint = read_checkpoint(path);
  checkpoint.schedulers[0].attributes = {{"speed", "fast"}};
  write_checkpoint(path, checkpoint);
  EXPECT_EQ(refusal(), "scheduler 0: attribute 'speed' must be float, got str");
  checkpoint.attributes = {{"mood", 1}};
  write_checkpoint(path, checkpoint);
  EXPECT_EQ(refusal(),
            "attributes of the sparsifier must be none, since its class has none, got 'mood'");
}

TEST_F(CheckpointFile, IsRefusedWhereASchedulersValueCannotBeUsed) {
  const Checkpoint good = read_checkpoint(path);
  const auto refusal_of = [&](const auto& change) {
    Checkpoint checkpoint = good;
    change(checkpoint);
    write_checkpoint(path, checkpoint);
    return refusal();
  };
  EXPECT_EQ(
      refusal_of([](Checkpoint& it) { it.schedulers[0].state.base_param.set("fc1.weight", 1.5); }),
      "scheduler 0: sparsity_level of 'fc1.weight' must be in [0, 1], got 1.5");
  EXPECT_EQ(refusal_of([](Checkpoint& it) {
              it.schedulers[0].state.base_param.set("fc1.weight", "text");
            }),
            "scheduler 0: sparsity_level of 'fc1.weight' must be a number, got 'text' (str)");
  EXPECT_EQ(refusal_of([](Checkpoint& it) {
              it.schedulers[0].state.last_param.set("fc1.weight", std::nan(""));
            }),
            "scheduler 0: sparsity_level of 'fc1.weight' must not be NaN, got nan");
}

// --- files that are refused -------------------------------------------------------------------

void decode(const std::string& bytes) {
  decode_checkpoint(bytes.size(), [&](std::uint64_t offset, void* to, std::size_t size) {
    ASSERT_LE(offset + size, bytes.size());
    if (size > 0) std::memcpy(to, bytes.data() + offset, size);
  });
}

TEST_F(CheckpointFile, IsRefusedWhereAnyBitIsWrong) {
  std::string bytes = file_content(path);
  constexpr std::size_t step = slowdown > 1 ? 3 : 1;  // of other bits in the next byte
  for (std::size_t bit = 0; bit < 8 * bytes.size(); bit += step) {
    const auto flip = [&] {
      bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    };
    flip();
    EXPECT_THROW(decode(bytes), ValueError) << "bit " << bit;
    flip();
  }
  decode(bytes);
}

TEST_F(CheckpointFile, IsRefusedWhereItEndsTooEarlyOrTooLate) {
  const std::string good = file_content(path);
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_THROW(decode(good.substr(0, size)), ValueError) << size << " bytes";
  }
  for (const std::size_t size : {good.size() / 2, good.size() - 1}) {
    write_file(path, good.substr(0, size));
    EXPECT_NE(refusal(), "");
  }
  for (const std::size_t more : {1u, 8u, 1000u}) {
    write_file(path, good + std::string(more, '\0'));
    EXPECT_EQ(refusal(), "the file must end with the last tensor, got " + std::to_string(more) +
                             " bytes behind it");
  }
}

/// A file with that header; its length is given, or the header's own.
std::string with_header(const std::string& header, const std::string& data,
                        std::optional<std::uint64_t> length = std::nullopt) {
  std::string prefix;
  for (int i = 0; i < 8; ++i) {
    prefix += static_cast<char>(length.value_or(header.size()) >> (8 * i) & 255);
  }
  return prefix + header + data;
}

TEST_F(CheckpointFile, TakesNoMemoryOnAFilesWord) {
  for (const std::uint64_t length :
       {std::uint64_t{3}, std::uint64_t{100'000'001}, ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
    write_file(path, with_header("{}", "", length));
    EXPECT_EQ(refusal(), "the length of the header must be at most 2 here, got " +
                             std::to_string(length) + ": the file is truncated, or no checkpoint");
  }
  // A hole takes no room on the disk: the header's limit holds for large files too.
  write_file(path, with_header("{}", "", 100'000'001));
  fs::resize_file(path, 1'000'000'000);
  EXPECT_EQ(refusal(),
            "the length of the header must be at most 100000000 here, got 100000001: the file is "
            "truncated, or no checkpoint");
}

TEST_F(CheckpointFile, OfOthersIsRefused) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "a checkpoint has at least 8 bytes, got 0"},
      {with_header("", ""), "header must be JSON; byte 1 is not"},
      {with_header("[]", ""), "header must be a dict, got list"},
      {with_header("{}", ""), "header has no entry '__metadata__'"},
      {with_header(R"({"__metadata__":{"format":"pt"}})", ""),
       "header['__metadata__']['format'] must be 'datasparse checkpoint', got 'pt'"},
      {with_header(R"({"__metadata__":{"format":"datasparse checkpoint","version":"3"}})", ""),
       "header['__metadata__']['version'] must be '1' or '2', got '3'"},
      {with_header(R"({"__metadata__":{"format":"datasparse checkpoint","version":""}})", ""),
       "header['__metadata__']['version'] must be '1' or '2', got ''"},
      {with_header(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "1234"),
       "header['w']['dtype'] must be U8, got F32"},
      {with_header(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", "123"),
       "header['w']['data_offsets'] must be a begin and an end within the 3 bytes behind the "
       "header, got (0, 4): the file is truncated, or damaged"},
      {with_header(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})", "1234"),
       "header['w']['data_offsets'] must be a begin and an end within the 4 bytes behind the "
       "header, got (4, 0): the file is truncated, or damaged"},
      {with_header(R"({"w":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}})", "1234"),
       "header['w']['shape'] must be the number of bytes, 4, got (2, 2)"},
      {with_header(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"w":1})", "1234"),
       "header holds 'w' twice"},
      {with_header(R"({"v":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                   R"("w":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
                   "1234"),
       "header: tensors must follow one another without a gap or an overlap; one ends at 3, the "
       "next begins at 2"},
      {with_header(R"({"w":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}})", "1234"),
       "header: tensors must follow one another without a gap or an overlap; one ends at 0, the "
       "next begins at 1"},
  };
  for (const auto& [content, message] : cases) {
    write_file(path, content);
    EXPECT_EQ(refusal(), message);
  }
}

/// The file with parts of its state replaced, and a checksum that fits.
class CheckpointState : public CheckpointFile {
 protected:
  std::string refusal_of(const std::string& part, const std::string& other) {
    const std::string good = file_content(path);
    const Checkpoint checkpoint = read_checkpoint(path);
    const std::string header = encode_header(checkpoint);
    const PlainData json = parse_json(header.substr(8), "header");
    PlainData::Dict dict = *json.get_if<PlainData::Dict>();
    auto& metadata = *std::get_if<PlainData::Dict>(&dict.items.front().second.variant());
    std::string state = *metadata.items[2].second.get_if<std::string>();
    const auto place = state.find(part);
    EXPECT_NE(place, std::string::npos) << part << " in " << state;
    state.replace(place, part.size(), other);
    const std::string checksum = checkpoint_checksum(state.data(), state.size());
    metadata.items[2].second = state;
    metadata.items[3].second = checksum;
    write_file(path, with_header(to_json(dict), good.substr(header.size())));
    const std::string message = refusal();
    write_file(path, good);
    return message;
  }
};

// Entries that are missing, or of another type or value, are in tests/python/test_state.py: they
// are the same in a state dict.
TEST_F(CheckpointState, NamesTheEntryThatDoesNotFit) {
  const std::vector<std::array<std::string, 3>> cases{
      {"\"step_count\":2", "\"step_count\":2.0", "state['step_count'] must be an int, got float"},
      {"\"shape\":[5,7]", "\"shape\":[-5,7]",
       "state['groups'][0]['shape'] must not be negative, got (-5, 7)"},
      {"\"shape\":[5,7]", "\"shape\":[5,700]",
       "tensor 'mask.fc1.weight' must have 438 bytes for shape (5, 700), got 5"},
      {"\"shape\":[5,7]", "\"shape\":[4611686018427387904,2]",
       "state['groups'][0]['shape'] must have at most 2^59 elements, got (4611686018427387904, "
       "2)"},
      {"\"name\":\"fc1.weight\"", "\"name\":\"fc2.weight\"",
       "header has no entry 'mask.fc2.weight'"},
      {"\"name\":\"fc1.weight\"", "\"name\":\"last\"",
       "tensor 'mask.last' must have 5 bytes for shape (5, 7), got 2"},
      {"\"groups\":[", "\"groups\":[1,", "state['groups'][0] must be a dict, got int"},
      {"\"schedulers\":[{", "\"schedulers\":[[],{",
       "state['schedulers'][0] must be a dict, got list"},
      {"\"step_count\":2", "\"step_count\":2,\"step_count\":2", "state holds 'step_count' twice"},
      {"\"layout\":[1,0]", "\"layout\":[1,1]",
       "state['groups'][0]['layout'] must be a permutation of the 2 axes, counted from 0, got (1, "
       "1)"},
      {"\"kept_zeros\":null", "\"kept_zeros\":\"\"",
       "header must hold 5 tensors, one for each of the 3 groups, one for each that has kept "
       "zeros, and one for each array, got 4"},
      {"\"kept_zeros\":\"", "\"kept_zeros\":null,\"kept\":\"",
       "header must hold 3 tensors, one for each of the 3 groups, one for each that has kept "
       "zeros, and one for each array, got 4"},
      {"\"kept_zeros\":\"", "\"kept_zeros\":7,\"kept\":\"",
       "state['groups'][0]['kept_zeros'] must be a str, got int"},
  };
  for (const auto& [part, other, message] : cases) EXPECT_EQ(refusal_of(part, other), message);
}

TEST_F(CheckpointState, OfVersion1HasNothingThatCameLater) {
  std::string content = file_content(path);
  const auto place = content.find("\"version\":\"2\"");
  ASSERT_NE(place, std::string::npos);
  content[place + 11] = '1';
  write_file(path, content);
  EXPECT_EQ(refusal(), "state['groups'][0]['layout'] must not be there in version 1");
}

TEST_F(CheckpointState, NamesTheZerosThatAreDamaged) {
  std::string content = file_content(path);
  Checkpoint checkpoint = read_checkpoint(path);
  const std::size_t zeros = encode_header(checkpoint).size() + 5;  // behind a mask of 35 bits
  content[zeros] = static_cast<char>(content[zeros] ^ 1);
  write_file(path, content);
  EXPECT_EQ(refusal().rfind("tensor 'zeros.fc1.weight' is damaged: its checksum is ", 0), 0U);
  checkpoint.sparsifier.groups[0].kept_zeros.pop_back();
  write_checkpoint(path, checkpoint);
  EXPECT_EQ(refusal(), "tensor 'zeros.fc1.weight' must have 5 bytes for shape (5, 7), got 4");
}

// --- at the same time -------------------------------------------------------------------------

TEST_F(CheckpointFile, IsOfOneMomentWhileOthersStep) {
  Objects objects;
  std::atomic<bool> stop{false};
  std::thread stepper([&] {
    while (!stop) objects.scheduler->step();
  });
  for (int i = 0; i < 200; ++i) {
    const Checkpoint taken = take_checkpoint(*objects.sparsifier, {objects.scheduler.get()});
    const auto& level = taken.sparsifier.groups[0].config.at("sparsity_level");
    EXPECT_EQ(level, taken.schedulers[0].state.last_param.at("fc1.weight"));
    EXPECT_EQ(level, ParamValue(attribute<double>(taken.schedulers[0].attributes, "speed")));
  }
  stop = true;
  stepper.join();
}

TEST_F(CheckpointFile, IsSavedAndLoadedByManyAtOnce) {
  Objects objects;
  const auto second = make_scheduler<Ramp>(objects.sparsifier);
  std::vector<BaseDataScheduler*> some{objects.scheduler.get(), second.get()};
  save_checkpoint(path, *objects.sparsifier, {some.begin(), some.end()});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      auto order = some;
      if (t % 2 == 1) std::swap(order[0], order[1]);
      for (int i = 0; i < 25; ++i) {
        if (t < 2) {
          save_checkpoint(path, *objects.sparsifier, {order.begin(), order.end()});
        } else {
          load_checkpoint(path, *objects.sparsifier, order);
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1) << "no temporary file is left";
}

}  // namespace
}  // namespace datasparse
