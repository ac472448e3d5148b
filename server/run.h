// Serves until a signal, then drains.
#pragma once

#include <signal.h>

#include "absl/status/status.h"
#include "server/config.h"

namespace quantd {

// Returns after one of `signals` (blocked in all threads by the caller, taken here by sigwait) and
// a clean drain, or with the error that prevented serving. A watchdog ends the process when the
// drain hangs.
absl::Status Run(const Config& config, const sigset_t& signals);

}  // namespace quantd
