// A failure told whole: what went wrong, what it means, what to do, where it happened and what had
// been tried.
#pragma once

#include <string>
#include <vector>

#include "client/render/table.h"
#include "proto/quantd/v1/job.pb.h"
#include "proto/quantd/v1/worker.pb.h"

namespace quantd {

// "out of memory".
std::string ErrorClassWord(v1::ErrorClass error_class);
// What a failure of this class says about the job, the data or the machine; empty: nothing.
std::string ErrorClassMeaning(v1::ErrorClass error_class);
// What went wrong and what to do, in lines.
std::vector<std::string> FailureLines(const v1::Failure& failure, const Style& style);

// "gpu-1: NVIDIA H100 80GB HBM3 (79.6 GiB), 128 GiB memory, 1.2 TiB disk free".
std::string MachineText(const v1::Worker& worker);

struct FailureAccount {
  std::string title;  // "gptq-b3-g128 quantize (jobs/7f3a)".
  v1::Failure failure;
  std::string machine;             // Empty: not known.
  std::vector<std::string> tried;  // Fallbacks, in order.
};
std::vector<std::string> AccountLines(const FailureAccount& account, const Style& style);

}  // namespace quantd
