// quant-engine estimate --spec FILE: memory, disk and time that a job will need, in JSON.
#include <memory>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "workers/engine/commands/commands.h"
#include "workers/engine/commands/local_job.h"
#include "workers/engine/models/inspect.h"
#include "workers/engine/quantize/quantize_job.h"

namespace quantd::engine {
namespace {

// Activations, logits and the libraries themselves, beside the weights.
constexpr int64_t kOverheadBytes = int64_t{1} << 30;

nlohmann::json ToJson(const QuantizeEstimate& estimate) {
  return {{"hostMemoryBytes", estimate.host_memory_bytes},
          {"deviceMemoryBytes", estimate.device_memory_bytes},
          {"diskBytes", estimate.disk_bytes},
          {"seconds", estimate.seconds}};
}

// A loaded model's needs: every weight in the compute dtype. The time depends on the data and is
// not estimated.
absl::StatusOr<nlohmann::json> EstimateLoaded(JobContext& context, const std::string& model) {
  QD_ASSIGN_OR_RETURN(const std::string folder, context.ResolveModel(model));
  QD_ASSIGN_OR_RETURN(const nlohmann::json facts, InspectModel(folder));
  const std::string& dtype = context.spec.runtime.dtype;
  const int64_t element_bytes = dtype == "bfloat16" || dtype == "float16" ? 2 : 4;
  const int64_t bytes = facts.value("parameters", int64_t{0}) * element_bytes + kOverheadBytes;
  return nlohmann::json{
      {"hostMemoryBytes", bytes},
      {"deviceMemoryBytes", context.spec.runtime.device.rfind("cuda", 0) == 0 ? bytes : 0},
      {"diskBytes", 0}};
}

struct Estimator {
  JobContext& context;
  absl::StatusOr<nlohmann::json> operator()(const QuantizeSpec& spec) const {
    QD_ASSIGN_OR_RETURN(const QuantizeEstimate estimate, EstimateQuantize(context, spec));
    return ToJson(estimate);
  }
  absl::StatusOr<nlohmann::json> operator()(const EvaluateSpec& spec) const {
    return EstimateLoaded(context, spec.model);
  }
  absl::StatusOr<nlohmann::json> operator()(const BenchmarkSpec& spec) const {
    return EstimateLoaded(context, spec.model);
  }
  absl::StatusOr<nlohmann::json> operator()(const VerifySpec& spec) const {
    return EstimateLoaded(context, spec.model);
  }
  absl::StatusOr<nlohmann::json> operator()(const CompareSpec&) const { return ToJson({}); }
  absl::StatusOr<nlohmann::json> operator()(const ReportSpec&) const { return ToJson({}); }
};

int Estimate(const std::string& path, const std::string& cache) {
  absl::StatusOr<JobSpec> spec = ReadSpecFile(path);
  if (!spec.ok()) return PrintUsageError(spec.status());
  const CancelToken cancel;
  TerminalSink events;
  JobContext context{*std::move(spec), {}, "", "", CacheFolder(cache), events, cancel, nullptr};
  SetHubFetch(&context);
  const auto kind = context.spec.kind;
  absl::StatusOr<nlohmann::json> estimate = std::visit(Estimator{context}, kind);
  if (!estimate.ok()) return PrintError(estimate.status());
  absl::PrintF("%s\n", estimate->dump(2));
  return 0;
}

}  // namespace

void AddEstimate(CLI::App& app, int* exit_code) {
  struct Flags {
    std::string spec, cache;
  };
  CLI::App* command = app.add_subcommand("estimate", "Estimate a job's memory, disk and time");
  auto flags = std::make_shared<Flags>();
  command->add_option("--spec", flags->spec, "JobSpec in JSON form")->required();
  command->add_option("--cache", flags->cache, "Folder for Hub downloads");
  command->callback([flags, exit_code] { *exit_code = Estimate(flags->spec, flags->cache); });
}

}  // namespace quantd::engine
