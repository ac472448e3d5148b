// A worker a GPU: which GPUs there are, and a process for each of their workers.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd {

inline constexpr char kVisibleGpus[] = "CUDA_VISIBLE_DEVICES";

// The GPUs that engines started here would see, as that variable names them: what is in it
// (`named`), else (null) the numbers of the driver's device files.
std::vector<std::string> VisibleGpus(const char* named);
// The numbers in that list that --gpu means: "all" of them, or one. InvalidArgument says which
// there are.
absl::StatusOr<std::vector<size_t>> ChooseGpus(absl::string_view flag,
                                               const std::vector<std::string>& visible);
// Children of this process see that GPU alone, as number 0.
void UseGpu(const std::string& gpu);

// Runs work(i) in a process of its own for every i < count, hands SIGTERM, SIGINT and SIGHUP on,
// and returns once all have ended: the largest of their exit codes. One that a signal killed is
// started again a second later, unless SIGTERM or SIGINT came; one that returned has its reasons.
// Before any thread starts.
int RunEachInProcess(size_t count, const std::function<int(size_t)>& work);

}  // namespace quantd
