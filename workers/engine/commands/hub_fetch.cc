// Hub names of specs, fetched into the context's cache folder with progress as events.
#include "base/status_macros.h"
#include "workers/engine/commands/local_job.h"
#include "workers/engine/hub/hub.h"

namespace quantd::engine {

std::string CacheFolder(const std::string& given) {
  return given.empty() ? HubOptions::FromEnvironment().cache_folder : given;
}

namespace {

HubOptions OptionsOf(JobContext& job) {
  HubOptions options = HubOptions::FromEnvironment();
  if (!job.cache_dir.empty()) options.cache_folder = job.cache_dir;
  options.progress = [&job](const HubProgress& progress) {
    job.events.Progress({"download", progress.done_bytes, progress.total_bytes, "byte"});
  };
  options.cancelled = [&job] { return job.cancel.cancelled(); };
  return options;
}

}  // namespace

void SetHubFetch(JobContext* context) {
  context->fetch_data = [](JobContext& job,
                           const std::string& reference) -> absl::StatusOr<std::string> {
    QD_ASSIGN_OR_RETURN(const HubDataName name, ParseHubData(reference));
    absl::StatusOr<std::string> path = FetchData(name, OptionsOf(job));
    if (!path.ok() && job.cancel.cancelled()) return job.cancel.Check();
    QD_RETURN_IF_ERROR(path.status(), "fetching ", reference);
    return path;
  };
  context->fetch_model = [](JobContext& job,
                            const std::string& reference) -> absl::StatusOr<std::string> {
    QD_ASSIGN_OR_RETURN(const HubModel model, ParseHubModel(reference));
    absl::StatusOr<HubSnapshot> snapshot = FetchModel(model, OptionsOf(job));
    if (!snapshot.ok() && job.cancel.cancelled()) return job.cancel.Check();
    QD_RETURN_IF_ERROR(snapshot.status(), "fetching ", reference);
    return snapshot->folder;
  };
}

}  // namespace quantd::engine
