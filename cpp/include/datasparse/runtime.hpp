/// The library's few process-wide settings, and what it says about itself.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "datasparse/api.h"

namespace datasparse {

/// "1.2.3".
DATASPARSE_API const char* version() noexcept;

/// Threads that a step uses at most: min(this setting, OMP_NUM_THREADS or omp_set_num_threads of
/// the calling thread). 0 means no limit of our own. ValueError if negative.
DATASPARSE_API void set_num_threads(int threads);
/// The number of threads a large step would use if called now; at least 1.
DATASPARSE_API int get_num_threads() noexcept;

/// The kernels in use: "scalar". The environment variable DATASPARSE_ISA forces one by name, and
/// naming one that this machine or build lacks is a ValueError from every function that needs
/// kernels.
DATASPARSE_API std::string instruction_set();
/// Those that run on this machine, best first.
DATASPARSE_API std::vector<std::string> instruction_sets_available();

/// "OpenMP 4.5 (201511)", or "none" for a build without OpenMP.
DATASPARSE_API std::string openmp_runtime();

/// What a message is: a line of a verbose scheduler, or a warning.
enum class Severity { info, warning };
/// Called on the thread that sends the message; may be called by several at once.
using MessageHandler = std::function<void(Severity, const std::string&)>;

/// Where warnings, and the lines of a verbose scheduler, go. The library itself never prints:
/// without a handler they are dropped. A handler may throw on a warning: the call that sent it then
/// fails without having changed anything, but for step() of a sparsifier, which is complete when it
/// warns of the masks that it has made; so is draw() of masks that move. What a verbose scheduler
/// tells has happened. Returns the handler that was set before.
DATASPARSE_API MessageHandler set_message_handler(MessageHandler handler);

}  // namespace datasparse
