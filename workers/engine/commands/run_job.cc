// Kind to function, by overload.
#include "workers/engine/commands/run_job.h"

#include <exception>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "workers/engine/benchmark/benchmark_job.h"
#include "workers/engine/evaluation/evaluate_job.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/quantize/quantize_job.h"
#include "workers/engine/report/report_job.h"
#include "workers/engine/verify/verify_job.h"

namespace quantd::engine {
namespace {

using Values = absl::StatusOr<nlohmann::json>;
Values Run(JobContext& context, const QuantizeSpec& spec) { return RunQuantize(context, spec); }
Values Run(JobContext& context, const EvaluateSpec& spec) { return RunEvaluate(context, spec); }
Values Run(JobContext& context, const BenchmarkSpec& spec) { return RunBenchmark(context, spec); }
Values Run(JobContext& context, const VerifySpec& spec) { return RunVerify(context, spec); }
Values Run(JobContext& context, const CompareSpec& spec) { return RunCompare(context, spec); }
Values Run(JobContext& context, const ReportSpec& spec) { return RunReport(context, spec); }

// The last net: rooms return statuses, but a mistake in one must not look like a crash.
Values RunCaught(JobContext& context) {
  try {
    // A copy: the rooms may look at context.spec while they run.
    const auto kind = context.spec.kind;
    return std::visit([&](const auto& spec) { return Run(context, spec); }, kind);
  } catch (const std::bad_alloc&) {
    return WithErrorClass(absl::ResourceExhaustedError("the machine's memory is used up"),
                          ErrorClass::kOutOfMemory);
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("an exception left a room: ", error.what()));
  }
}

}  // namespace

absl::StatusOr<nlohmann::json> RunJob(JobContext& context) {
  const absl::Duration start = Clock::Real().Monotonic();
  absl::StatusOr<nlohmann::json> values = RunCaught(context);
  const double seconds = absl::ToDoubleSeconds(Clock::Real().Monotonic() - start);
  const std::string kind(KindName(context.spec));
  if (!values.ok()) {
    context.events.Failure(values.status());
    return values;
  }
  (*values)["engineVersion"] = QUANTD_VERSION;
  (*values)["seconds"] = seconds;
  LogInfo("job done", {{"kind", kind}, {"seconds", seconds}});
  context.events.Result(*values);
  return values;
}

int ExitCode(const absl::Status& status) {
  if (status.ok()) return 0;
  return ErrorClassOf(status) == ErrorClass::kCancelled ? 3 : 1;
}

}  // namespace quantd::engine
