/// datasparse for trainers in C, Rust, Go and whatever else calls C functions. C99, and C++.
///
/// Experimental until version 1.0: these functions follow the C++ classes, and a version before 1.0
/// may take some back; the number of DATASPARSE_ABI_VERSION then says so.
///
/// Objects are handles: datasparse_sparsifier, _scheduler, _schedule, _params, _mask, _names,
/// _report. A function that makes one hands it to the caller, who releases it once by the release
/// function of its kind; releasing NULL does nothing. A scheduler keeps its sparsifier alive, and a
/// mask its bytes: handles may be released in any order. What a call works on stays until it
/// returns.
///
/// Unless it says otherwise, a function returns a datasparse_status. Where that is not
/// DATASPARSE_OK, nothing has changed, nothing was written through an output pointer, and
/// datasparse_error_message() says which argument broke which rule. Any pointer argument that is
/// not said to be optional is a DATASPARSE_VALUE_ERROR when it is NULL. Strings are UTF-8, and are
/// copied; so are all structs.
///
/// No exception leaves the library. One that a callback in C++ throws ends as a status, where the
/// callback returns one; a callback that returns nothing must not throw, and none may end the
/// thread or jump out.
///
/// Threads: as for the C++ classes, any function may be called by several threads at once, also
/// with the same handle. Three things are left to the caller. Params belong to one thread at a
/// time. A handle must not be released while another thread still uses it. The bytes of a mask are
/// written by a step in another thread. Callbacks are called on the thread that called the library,
/// never from a parallel region.
///
/// Structs begin with the DATASPARSE_ABI_VERSION that their writer was compiled with;
/// datasparse_array_of() and datasparse_block_spec_of() fill it in. Until that version rises, no
/// layout, value or signature changes, and functions are only added; when it does, structs have
/// grown at their ends, and the library takes those of all versions before. Version 2 has
/// get_scores.
///
/// The rules of what is computed, ranges and costs stand in the C++ header of the same name as the
/// object: data_norm_sparsifier.hpp, data_scheduler.hpp, schedule.hpp, checkpoint.hpp,
/// block_mask.hpp.
#ifndef DATASPARSE_DATASPARSE_H
#define DATASPARSE_DATASPARSE_H

#include <stddef.h>
#include <stdint.h>

#include "datasparse/api.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DATASPARSE_ABI_VERSION 2

// --- status -----------------------------------------------------------------------------------

typedef int32_t datasparse_status;
enum {
  DATASPARSE_OK = 0,
  DATASPARSE_TYPE_ERROR = 1,      ///< a value of the wrong kind, an unknown config key
  DATASPARSE_VALUE_ERROR = 2,     ///< a value that breaks a rule
  DATASPARSE_UNKNOWN_NAME = 3,    ///< no such group, or key; the message has the nearest one
  DATASPARSE_STATE_ERROR = 4,     ///< a call that the moment forbids, as from inside a callback
  DATASPARSE_FILE_ERROR = 5,      ///< what the operating system refused
  DATASPARSE_OUT_OF_MEMORY = 6,   ///< an allocation failed
  DATASPARSE_INTERNAL_ERROR = 7,  ///< none of these: a fault of the library
  /// A callback failed. One may return this, the status of a call that it made, or any code of its
  /// own above: the call that led to it returns the same.
  DATASPARSE_CALLBACK_ERROR = 100
};

/// What the last call of this thread that failed has to say, or a callback has set since; ""
/// before. At most 1023 bytes; valid until the next. Never NULL.
DATASPARSE_API const char* datasparse_error_message(void);
/// For a callback that is about to return a status of its own: what it has to say.
DATASPARSE_API void datasparse_set_error_message(const char* message);

// --- runtime ----------------------------------------------------------------------------------

/// "1.2.3"; never NULL.
DATASPARSE_API const char* datasparse_version(void);
/// DATASPARSE_ABI_VERSION of the library that was found at run time.
DATASPARSE_API uint32_t datasparse_abi_version(void);
/// Threads that a step uses at most; 0: no limit of our own.
DATASPARSE_API datasparse_status datasparse_set_num_threads(int32_t threads);
/// The number of threads a large step would use now.
DATASPARSE_API int32_t datasparse_get_num_threads(void);
/// The kernels in use, such as "avx2". Valid for ever.
DATASPARSE_API datasparse_status datasparse_instruction_set(const char** name);

enum { DATASPARSE_INFO = 0, DATASPARSE_WARNING = 1 };
/// Where warnings go; the library prints nothing. NULL drops them. A call that is running in
/// another thread may use the handler once more after it was replaced, and `user_data` with it.
DATASPARSE_API datasparse_status datasparse_set_message_handler(
    void (*handler)(void* user_data, int32_t severity, const char* message), void* user_data);

// --- arrays -----------------------------------------------------------------------------------

enum {
  DATASPARSE_FLOAT16 = 0,
  DATASPARSE_BFLOAT16 = 1,
  DATASPARSE_FLOAT32 = 2,
  DATASPARSE_FLOAT64 = 3
};

/// A view of the caller's memory. The struct, `shape` and `strides` are read during the call only;
/// the memory must outlive every use.
typedef struct datasparse_array {
  uint32_t version;
  int32_t dtype;
  int32_t ndim;            ///< 0 to 32
  int32_t read_only;       ///< nonzero: apply_mask and squash_mask refuse
  void* data;              ///< may be NULL where there are no elements
  const int64_t* shape;    ///< ndim lengths; may be NULL where ndim is 0
  const int64_t* strides;  ///< ndim steps in bytes; NULL: C-contiguous
} datasparse_array;

/// A C-contiguous array.
static inline datasparse_array datasparse_array_of(int32_t dtype, void* data, int32_t ndim,
                                                   const int64_t* shape) {
  datasparse_array array = {DATASPARSE_ABI_VERSION, 0, 0, 0, NULL, NULL, NULL};
  array.dtype = dtype;
  array.ndim = ndim;
  array.data = data;
  array.shape = shape;
  return array;
}

// --- masks without a sparsifier ---------------------------------------------------------------

enum { DATASPARSE_L1 = 0, DATASPARSE_L2 = 1, DATASPARSE_NO_NORM = 2 };
#define DATASPARSE_WHOLE_BLOCK ((int64_t)-1)

/// What to prune: BlockSpec in block_mask.hpp.
typedef struct datasparse_block_spec {
  uint32_t version;
  int32_t norm;             ///< DATASPARSE_NO_NORM: values are ranked as they are, sign included
  double sparsity_level;    ///< share of the blocks that are pruned, in [0, 1]
  int64_t block_height;     ///< 1 or more; -1: the whole first axis
  int64_t block_width;      ///< 1 or more; -1: all other axes together
  int64_t zeros_per_block;  ///< 0 to height x width, or DATASPARSE_WHOLE_BLOCK
} datasparse_block_spec;

/// Blocks of height x width, pruned as a whole, by their L1 norm. zeros_per_block and a level of 1
/// make N:M patterns.
static inline datasparse_block_spec datasparse_block_spec_of(double sparsity_level, int64_t height,
                                                             int64_t width) {
  datasparse_block_spec spec = {DATASPARSE_ABI_VERSION, DATASPARSE_L1, 0.0, 0, 0,
                                DATASPARSE_WHOLE_BLOCK};
  spec.sparsity_level = sparsity_level;
  spec.block_height = height;
  spec.block_width = width;
  return spec;
}

/// Writes the mask of an array: a byte per element in C order, 1 keeps, 0 prunes. `mask_size` must
/// be the number of elements.
DATASPARSE_API datasparse_status datasparse_block_mask(const datasparse_array* data,
                                                       const datasparse_block_spec* spec,
                                                       uint8_t* mask, size_t mask_size);
/// Writes +0 into every element whose mask byte is 0.
DATASPARSE_API datasparse_status datasparse_apply_mask(const datasparse_array* data,
                                                       const uint8_t* mask, size_t mask_size);

// --- params: names with plain values, in the order in which they were set ---------------------

typedef struct datasparse_params datasparse_params;

enum {
  DATASPARSE_NONE = 0,
  DATASPARSE_BOOL = 1,
  DATASPARSE_INT = 2,
  DATASPARSE_FLOAT = 3,
  DATASPARSE_STRING = 4,
  DATASPARSE_INTS = 5,
  DATASPARSE_FLOATS = 6
};

DATASPARSE_API datasparse_status datasparse_params_create(datasparse_params** params);
/// Params of the caller's own, also of those that a callback is given.
DATASPARSE_API datasparse_status datasparse_params_copy(const datasparse_params* params,
                                                        datasparse_params** copy);
DATASPARSE_API void datasparse_params_release(datasparse_params* params);

/// Insert at the end, or overwrite in place.
DATASPARSE_API datasparse_status datasparse_params_set_none(datasparse_params* params,
                                                            const char* key);
DATASPARSE_API datasparse_status datasparse_params_set_bool(datasparse_params* params,
                                                            const char* key, int32_t value);
DATASPARSE_API datasparse_status datasparse_params_set_int(datasparse_params* params,
                                                           const char* key, int64_t value);
DATASPARSE_API datasparse_status datasparse_params_set_float(datasparse_params* params,
                                                             const char* key, double value);
DATASPARSE_API datasparse_status datasparse_params_set_string(datasparse_params* params,
                                                              const char* key, const char* value);
DATASPARSE_API datasparse_status datasparse_params_set_ints(datasparse_params* params,
                                                            const char* key, const int64_t* values,
                                                            size_t count);
DATASPARSE_API datasparse_status datasparse_params_set_floats(datasparse_params* params,
                                                              const char* key, const double* values,
                                                              size_t count);

/// DATASPARSE_UNKNOWN_NAME where there is no such key.
DATASPARSE_API datasparse_status datasparse_params_erase(datasparse_params* params,
                                                         const char* key);

DATASPARSE_API datasparse_status datasparse_params_size(const datasparse_params* params,
                                                        size_t* size);
/// The key at a place below size. Valid until the params change.
DATASPARSE_API datasparse_status datasparse_params_key(const datasparse_params* params,
                                                       size_t index, const char** key);
/// DATASPARSE_NONE to DATASPARSE_FLOATS.
DATASPARSE_API datasparse_status datasparse_params_kind(const datasparse_params* params,
                                                        const char* key, int32_t* kind);
/// DATASPARSE_TYPE_ERROR for a value of another kind. An integer is a float too, a float without a
/// fraction an integer, and an empty list one of either. What strings and lists point to is valid
/// until the params change.
DATASPARSE_API datasparse_status datasparse_params_get_bool(const datasparse_params* params,
                                                            const char* key, int32_t* value);
DATASPARSE_API datasparse_status datasparse_params_get_int(const datasparse_params* params,
                                                           const char* key, int64_t* value);
DATASPARSE_API datasparse_status datasparse_params_get_float(const datasparse_params* params,
                                                             const char* key, double* value);
DATASPARSE_API datasparse_status datasparse_params_get_string(const datasparse_params* params,
                                                              const char* key, const char** value);
DATASPARSE_API datasparse_status datasparse_params_get_ints(const datasparse_params* params,
                                                            const char* key, const int64_t** values,
                                                            size_t* count);
DATASPARSE_API datasparse_status datasparse_params_get_floats(const datasparse_params* params,
                                                              const char* key,
                                                              const double** values, size_t* count);

// --- sparsifiers ------------------------------------------------------------------------------

typedef struct datasparse_sparsifier datasparse_sparsifier;
typedef struct datasparse_mask datasparse_mask;
typedef struct datasparse_names datasparse_names;
typedef struct datasparse_report datasparse_report;

/// What an object that is written outside the library keeps of its own. Once a create function has
/// returned DATASPARSE_OK, `user_data` belongs to the object, which calls `release` when all else
/// of it is gone; before, it is the caller's. All functions are optional, and take `user_data`
/// first.
typedef struct datasparse_own_state {
  void* user_data;
  void (*release)(void* user_data);
  /// Fills in what a checkpoint shall hold.
  datasparse_status (*save)(void* user_data, datasparse_params* attributes);
  /// Checks what a checkpoint holds and keeps it aside; `commit_load`, which must not fail, puts it
  /// into place once everything else in the checkpoint has been checked. Both are there, or neither
  /// they nor `save`.
  datasparse_status (*prepare_load)(void* user_data, const datasparse_params* attributes);
  void (*commit_load)(void* user_data);
} datasparse_own_state;

/// What a sparsifier of one's own does.
typedef struct datasparse_sparsifier_overrides {
  uint32_t version;
  datasparse_own_state own;
  /// Writes the mask of one group: a byte per element in C order, 0 or 1; it holds the last one.
  /// `sparsifier` may be read, and nothing in it changed. Optional on top of a norm.
  datasparse_status (*update_mask)(void* user_data, const datasparse_sparsifier* sparsifier,
                                   const char* name, const datasparse_array* data,
                                   const datasparse_params* config, uint8_t* mask);
  /// Fails unless update_mask can work with this config; `name` is "" for the defaults. Optional.
  datasparse_status (*check_config)(void* user_data, const char* name,
                                    const datasparse_params* config);
  // From here on since version 2.
  /// The scores that one group is ranked by in the place of its data, on top of a norm. `scores`
  /// comes as the data, which are ranked where it stays so; else it becomes any array of their
  /// shape. Shape and strides are copied at once. The memory must stay as it is until
  /// `release_scores`, or else until the step returns. `sparsifier` may be read, and nothing in it
  /// changed. Called for all groups before any is ranked; not at all where there is an update_mask.
  /// Optional.
  datasparse_status (*get_scores)(void* user_data, const datasparse_sparsifier* sparsifier,
                                  const char* name, const datasparse_array* data,
                                  const datasparse_params* config, datasparse_array* scores);
  /// Called once for each array of scores, with its `data`, when it is not needed any more.
  /// Optional.
  void (*release_scores)(void* user_data, void* data);
} datasparse_sparsifier_overrides;

/// Prunes the blocks of least norm: DataNormSparsifier. `own`, optional, has the defaults of
/// further config keys, for `overrides`, optional.
DATASPARSE_API datasparse_status datasparse_data_norm_sparsifier_create(
    const datasparse_block_spec* defaults, const datasparse_params* own,
    const datasparse_sparsifier_overrides* overrides, datasparse_sparsifier** sparsifier);
/// Prunes what update_mask says, which is not optional here. `defaults`, optional, is the config of
/// every group that says nothing else.
DATASPARSE_API datasparse_status datasparse_sparsifier_create(
    const datasparse_params* defaults, const datasparse_sparsifier_overrides* overrides,
    datasparse_sparsifier** sparsifier);
DATASPARSE_API void datasparse_sparsifier_release(datasparse_sparsifier* sparsifier);

/// For update_mask on top of a norm: writes the mask that would be there without it, from data of
/// the mask's shape, which may be any scores. DATASPARSE_TYPE_ERROR for another sparsifier,
/// DATASPARSE_STATE_ERROR outside of update_mask.
DATASPARSE_API datasparse_status
datasparse_data_norm_update_mask(const datasparse_sparsifier* sparsifier, const char* name,
                                 const datasparse_array* data, const datasparse_params* config);

/// Adds a tensor whose memory stays where it is until the group is removed. A name that is there
/// keeps its config, where `config`, optional, does not say otherwise, and its mask.
DATASPARSE_API datasparse_status datasparse_sparsifier_add_data(datasparse_sparsifier* sparsifier,
                                                                const char* name,
                                                                const datasparse_array* data,
                                                                const datasparse_params* config);
/// The same with a mask, which is copied: bytes of 0 and 1, one per element. NULL stands for one
/// that keeps all, whatever was there: so a tensor of another shape takes over a name and its
/// config.
DATASPARSE_API datasparse_status datasparse_sparsifier_add_data_with_mask(
    datasparse_sparsifier* sparsifier, const char* name, const datasparse_array* data,
    const datasparse_params* config, const uint8_t* mask, size_t mask_size);

/// Where a tensor is whose owner moves it. Between pin and unpin the memory stays where it is.
typedef struct datasparse_source {
  uint32_t version;
  void* user_data;
  void (*release)(void* user_data);  ///< optional; as in datasparse_own_state
  /// Fills in `array`, whose shape and strides are copied at once.
  datasparse_status (*pin)(void* user_data, datasparse_array* array);
  void (*unpin)(void* user_data);         ///< optional
  void (*mark_written)(void* user_data);  ///< optional; while pinned, after zeros were written
} datasparse_source;

/// add_data for a tensor that may be elsewhere at every step.
DATASPARSE_API datasparse_status datasparse_sparsifier_add_source(datasparse_sparsifier* sparsifier,
                                                                  const char* name,
                                                                  const datasparse_source* source,
                                                                  const datasparse_params* config);
DATASPARSE_API datasparse_status
datasparse_sparsifier_remove_data(datasparse_sparsifier* sparsifier, const char* name);

/// All names in the order in which they were added.
DATASPARSE_API datasparse_status
datasparse_sparsifier_names(const datasparse_sparsifier* sparsifier, datasparse_names** names);
DATASPARSE_API datasparse_status datasparse_names_size(const datasparse_names* names, size_t* size);
DATASPARSE_API datasparse_status datasparse_names_at(const datasparse_names* names, size_t index,
                                                     const char** name);
DATASPARSE_API void datasparse_names_release(datasparse_names* names);
DATASPARSE_API datasparse_status datasparse_sparsifier_contains(
    const datasparse_sparsifier* sparsifier, const char* name, int32_t* contains);

/// The group's own mask, not a copy: what is written there is the mask. While another thread's step
/// runs it is half written.
DATASPARSE_API datasparse_status datasparse_sparsifier_mask(const datasparse_sparsifier* sparsifier,
                                                            const char* name,
                                                            datasparse_mask** mask);
/// Valid while the mask's handle is.
DATASPARSE_API datasparse_status datasparse_mask_bytes(const datasparse_mask* mask, uint8_t** bytes,
                                                       size_t* size);
DATASPARSE_API datasparse_status datasparse_mask_shape(const datasparse_mask* mask,
                                                       const int64_t** shape, int32_t* ndim);
DATASPARSE_API datasparse_status datasparse_mask_zeros(const datasparse_mask* mask, int64_t* zeros);
DATASPARSE_API void datasparse_mask_release(datasparse_mask* mask);

/// A group's config with automatic values filled in, as a copy.
DATASPARSE_API datasparse_status datasparse_sparsifier_config(
    const datasparse_sparsifier* sparsifier, const char* name, datasparse_params** config);
DATASPARSE_API datasparse_status datasparse_sparsifier_update_config(
    datasparse_sparsifier* sparsifier, const char* name, const datasparse_params* changes);
/// One config value of every group, by group name: GroupParams of C++.
DATASPARSE_API datasparse_status datasparse_sparsifier_get_param(
    const datasparse_sparsifier* sparsifier, const char* key, datasparse_params** values);
DATASPARSE_API datasparse_status datasparse_sparsifier_set_param(datasparse_sparsifier* sparsifier,
                                                                 const char* key,
                                                                 const datasparse_params* values);
/// A group's own values, saved with its mask.
DATASPARSE_API datasparse_status datasparse_sparsifier_state(
    const datasparse_sparsifier* sparsifier, const char* name, datasparse_params** state);
DATASPARSE_API datasparse_status datasparse_sparsifier_replace_state(
    datasparse_sparsifier* sparsifier, const char* name, const datasparse_params* state);

/// Recomputes all masks: all of them, or none where it fails.
DATASPARSE_API datasparse_status datasparse_sparsifier_step(datasparse_sparsifier* sparsifier);
DATASPARSE_API datasparse_status
datasparse_sparsifier_step_count(const datasparse_sparsifier* sparsifier, int64_t* steps);
/// While 0, a step counts but changes no mask.
DATASPARSE_API datasparse_status
datasparse_sparsifier_set_enable_mask_update(datasparse_sparsifier* sparsifier, int32_t enable);
DATASPARSE_API datasparse_status
datasparse_sparsifier_enable_mask_update(const datasparse_sparsifier* sparsifier, int32_t* enabled);
/// Zeroes the masked elements of all groups, or of those named, in their owners' memory.
DATASPARSE_API datasparse_status
datasparse_sparsifier_apply_mask(datasparse_sparsifier* sparsifier);
DATASPARSE_API datasparse_status datasparse_sparsifier_apply_mask_of(
    datasparse_sparsifier* sparsifier, const char* const* names, size_t count);
/// The same, and no step touches them any more.
DATASPARSE_API datasparse_status
datasparse_sparsifier_squash_mask(datasparse_sparsifier* sparsifier);
DATASPARSE_API datasparse_status datasparse_sparsifier_squash_mask_of(
    datasparse_sparsifier* sparsifier, const char* const* names, size_t count);

enum { DATASPARSE_ACTIVE = 0, DATASPARSE_SQUASHED = 1, DATASPARSE_AWAITS_DATA = 2 };

/// A group in figures. What it points to is valid while the report is.
typedef struct datasparse_group {
  uint32_t version;
  int32_t status;
  int32_t dtype;  ///< -1 where the group holds no data
  int32_t ndim;
  const char* name;
  const int64_t* shape;
  int64_t elements;
  int64_t zeros;  ///< of the mask
} datasparse_group;

/// All groups, of one moment. Pins every source, and reads every mask twice and all data once.
DATASPARSE_API datasparse_status
datasparse_sparsifier_report(const datasparse_sparsifier* sparsifier, datasparse_report** report);
DATASPARSE_API datasparse_status datasparse_report_size(const datasparse_report* report,
                                                        size_t* size);
/// `group->version` must have been set to DATASPARSE_ABI_VERSION.
DATASPARSE_API datasparse_status datasparse_report_at(const datasparse_report* report, size_t index,
                                                      datasparse_group* group);
DATASPARSE_API void datasparse_report_release(datasparse_report* report);

// --- schedules: values over steps, see schedule.hpp -------------------------------------------

typedef struct datasparse_schedule datasparse_schedule;

/// Where a schedule takes a level: the group's own value. (An infinity is refused, and what a
/// mistaken division leaves behind with it.)
#define DATASPARSE_BASE_VALUE (-1.25e308)

DATASPARSE_API datasparse_status datasparse_schedule_constant(double value,
                                                              datasparse_schedule** schedule);
DATASPARSE_API datasparse_status datasparse_schedule_step(int64_t step_size, double gamma,
                                                          datasparse_schedule** schedule);
DATASPARSE_API datasparse_status datasparse_schedule_multi_step(const int64_t* milestones,
                                                                size_t count, double gamma,
                                                                datasparse_schedule** schedule);
DATASPARSE_API datasparse_status datasparse_schedule_exponential(double gamma, int64_t every,
                                                                 datasparse_schedule** schedule);
/// From `initial` at step `begin` to `final_value` at step `end`, in steps of `every`. Where these
/// are one step, `initial` before it and `final_value` from it on.
DATASPARSE_API datasparse_status datasparse_schedule_linear(double initial, double final_value,
                                                            int64_t begin, int64_t end,
                                                            int64_t every,
                                                            datasparse_schedule** schedule);
DATASPARSE_API datasparse_status datasparse_schedule_polynomial(double initial, double final_value,
                                                                int64_t begin, int64_t end,
                                                                int64_t every, double power,
                                                                datasparse_schedule** schedule);
DATASPARSE_API datasparse_status datasparse_schedule_cosine(double initial, double final_value,
                                                            int64_t begin, int64_t end,
                                                            int64_t every,
                                                            datasparse_schedule** schedule);
DATASPARSE_API datasparse_status datasparse_schedule_cyclic(double low, double high, int64_t period,
                                                            datasparse_schedule** schedule);
DATASPARSE_API datasparse_status datasparse_schedule_one_shot(int64_t at, double before,
                                                              double value,
                                                              datasparse_schedule** schedule);
DATASPARSE_API datasparse_status datasparse_schedule_piecewise(const int64_t* steps,
                                                               const double* values, size_t count,
                                                               datasparse_schedule** schedule);
/// One after another; there is one milestone fewer than schedules, which stay the caller's.
DATASPARSE_API datasparse_status
datasparse_schedule_sequential(const datasparse_schedule* const* schedules, size_t count,
                               const int64_t* milestones, datasparse_schedule** schedule);
DATASPARSE_API datasparse_status datasparse_schedule_product(
    const datasparse_schedule* const* schedules, size_t count, datasparse_schedule** schedule);
DATASPARSE_API datasparse_status datasparse_schedule_clamp(const datasparse_schedule* inner,
                                                           double low, double high,
                                                           datasparse_schedule** schedule);
DATASPARSE_API datasparse_status datasparse_schedule_round(const datasparse_schedule* inner,
                                                           datasparse_schedule** schedule);
/// The value at a step, of a group whose own value is `base`.
DATASPARSE_API datasparse_status datasparse_schedule_value(const datasparse_schedule* schedule,
                                                           int64_t step, double base,
                                                           double* value);
DATASPARSE_API void datasparse_schedule_release(datasparse_schedule* schedule);

// --- schedulers -------------------------------------------------------------------------------

typedef struct datasparse_scheduler datasparse_scheduler;

/// What a scheduler of one's own does.
typedef struct datasparse_scheduler_overrides {
  uint32_t version;
  datasparse_own_state own;
  /// Sets in `values`, which is empty, the value of each group for the next step; groups that are
  /// left out keep theirs. `base` has each group's value when the scheduler first saw it, `last`
  /// that of the last step. All three are valid during the call only.
  datasparse_status (*get_schedule_param)(void* user_data, int64_t last_epoch,
                                          const datasparse_params* base,
                                          const datasparse_params* last, datasparse_params* values);
} datasparse_scheduler_overrides;

// Each makes the initial step before it returns: `last_epoch` -1, a new training, becomes 0.

/// Calls get_schedule_param, also for the initial step.
DATASPARSE_API datasparse_status
datasparse_scheduler_create(datasparse_sparsifier* sparsifier, const char* schedule_param,
                            const datasparse_scheduler_overrides* overrides, int64_t last_epoch,
                            datasparse_scheduler** scheduler);
/// One schedule, which stays the caller's, for all groups.
DATASPARSE_API datasparse_status datasparse_data_scheduler_create(
    datasparse_sparsifier* sparsifier, const char* schedule_param,
    const datasparse_schedule* schedule, int64_t last_epoch, datasparse_scheduler** scheduler);
/// Schedules by patterns of group names: see DataScheduler. With `strict`, every pattern must be
/// needed.
DATASPARSE_API datasparse_status datasparse_data_scheduler_create_matching(
    datasparse_sparsifier* sparsifier, const char* schedule_param, const char* const* patterns,
    const datasparse_schedule* const* schedules, size_t count, int32_t strict, int64_t last_epoch,
    datasparse_scheduler** scheduler);

enum { DATASPARSE_MIN = 0, DATASPARSE_MAX = 1 };
/// How a metric moves a scheduler: AdaptiveRule in adaptive_data_scheduler.hpp.
typedef struct datasparse_adaptive_rule {
  uint32_t version;
  int32_t mode;
  double tolerance;
  int64_t patience;
  int64_t back_off;
  int64_t steps;  ///< -1: the schedules' end
} datasparse_adaptive_rule;

DATASPARSE_API datasparse_status datasparse_adaptive_data_scheduler_create(
    datasparse_sparsifier* sparsifier, const char* schedule_param, const char* const* patterns,
    const datasparse_schedule* const* schedules, size_t count, int32_t strict,
    const datasparse_adaptive_rule* rule, int64_t last_epoch, datasparse_scheduler** scheduler);
DATASPARSE_API void datasparse_scheduler_release(datasparse_scheduler* scheduler);

/// To be called after the sparsifier's step.
DATASPARSE_API datasparse_status datasparse_scheduler_step(datasparse_scheduler* scheduler);
/// DATASPARSE_TYPE_ERROR for a scheduler that is not adaptive.
DATASPARSE_API datasparse_status
datasparse_scheduler_step_with_metric(datasparse_scheduler* scheduler, double metric);
DATASPARSE_API datasparse_status
datasparse_scheduler_last_epoch(const datasparse_scheduler* scheduler, int64_t* last_epoch);
/// By group name, as copies.
DATASPARSE_API datasparse_status
datasparse_scheduler_last_param(const datasparse_scheduler* scheduler, datasparse_params** values);
DATASPARSE_API datasparse_status
datasparse_scheduler_base_param(const datasparse_scheduler* scheduler, datasparse_params** values);

// --- checkpoints: the same files as from C++ and Python ---------------------------------------

/// `schedulers` may be NULL where `count` is 0. The path has the file that was there, or the whole
/// new one, at any moment.
DATASPARSE_API datasparse_status
datasparse_save_checkpoint(const char* path, const datasparse_sparsifier* sparsifier,
                           const datasparse_scheduler* const* schedulers, size_t count);
/// Restores into objects made as those were, all or nothing. With `strict`, the names must be those
/// attached, unless none is, and the number of schedulers that of the file.
DATASPARSE_API datasparse_status datasparse_load_checkpoint(const char* path,
                                                            datasparse_sparsifier* sparsifier,
                                                            datasparse_scheduler* const* schedulers,
                                                            size_t count, int32_t strict);

#ifdef __cplusplus
}
#endif

#endif
