/// A sparsifier and its schedulers in one file, to resume a training exactly where it was.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/data_scheduler.hpp"
#include "datasparse/data_sparsifier.hpp"
#include "datasparse/plain_data.hpp"

namespace datasparse {

/// What a checkpoint holds: everything but the users' data. docs/checkpoints.md describes the file.
struct Checkpoint {
  /// One scheduler, in the order in which they were saved.
  struct Scheduler {
    SchedulerState state;
    Attributes attributes;
  };

  SparsifierState sparsifier;
  Attributes attributes;  ///< the sparsifier's
  std::vector<Scheduler> schedulers;
};

/// Saves a sparsifier and schedulers that drive it, all of the same moment.
///
/// Whoever opens the path, at any moment and after any crash, finds the file that was there or the
/// whole new one. A link is followed; permissions stay.
///
/// Errors: ValueError for a scheduler of another sparsifier, one that is given twice, a name that
/// is not UTF-8, attributes nested deeper than PlainData::max_depth, or a path to something that is
/// no file; FileError; StateError from inside an override. The path is as it was then, and no
/// other file is left.
/// Cost: one bit per element in memory and on the disk; the objects are locked while the masks are
/// packed, and not while the file is written.
DATASPARSE_API void save_checkpoint(const std::string& path, const BaseDataSparsifier& sparsifier,
                                    const std::vector<const BaseDataScheduler*>& schedulers = {});

/// Restores what save_checkpoint() saved into objects made as those were: the schedulers in the
/// same order. Attached data stay attached, and are not touched: apply_mask() zeroes them. State
/// for a name without data waits for add_data(). The configs are those of the file, also where a
/// scheduler has others as its last values.
///
/// With `strict`, the names must be those attached, unless none is, and the number of schedulers
/// that of the file. Without, names without a state keep what they have, and the file may hold
/// more schedulers.
///
/// Errors: ValueError, naming the file and the entry, for anything that is not such a file, whole
/// and undamaged, or does not fit the objects; FileError; StateError from inside an override. No
/// object has changed then. No memory is taken that the file's own size does not warrant.
DATASPARSE_API void load_checkpoint(const std::string& path, BaseDataSparsifier& sparsifier,
                                    const std::vector<BaseDataScheduler*>& schedulers = {},
                                    bool strict = true);

// --- in two halves --------------------------------------------------------------------------

/// What save_checkpoint() would write.
DATASPARSE_API Checkpoint
take_checkpoint(const BaseDataSparsifier& sparsifier,
                const std::vector<const BaseDataScheduler*>& schedulers = {});
/// What load_checkpoint() does with the file's content.
DATASPARSE_API void restore_checkpoint(const Checkpoint& checkpoint, BaseDataSparsifier& sparsifier,
                                       const std::vector<BaseDataScheduler*>& schedulers = {},
                                       bool strict = true);

/// The file half of save_checkpoint(), with its errors and its promise.
DATASPARSE_API void write_checkpoint(const std::string& path, const Checkpoint& checkpoint);
/// The file half of load_checkpoint(): checks all that can be checked without the objects.
DATASPARSE_API Checkpoint read_checkpoint(const std::string& path);

/// What a checkpoint says of the bytes of a mask, of an array or of its state: XXH64 with seed 0,
/// in sixteen hexadecimal digits. For programs that write such a file piece by piece. O(size).
DATASPARSE_API std::string checkpoint_checksum(const void* data, std::size_t size);

}  // namespace datasparse
