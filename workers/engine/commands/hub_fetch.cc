// Hub names of specs, fetched into the context's cache folder with progress as events.
#include "base/status_macros.h"
#include "workers/engine/commands/local_job.h"
#include "workers/engine/hub/hub.h"

namespace quantd::engine {

std::string CacheFolder(const std::string& given) {
  return given.empty() ? HubOptions::FromEnvironment().cache_folder : given;
}

void SetHubFetch(JobContext* context) {
  context->fetch_model = [](JobContext& job,
                            const std::string& reference) -> absl::StatusOr<std::string> {
    QD_ASSIGN_OR_RETURN(const HubModel model, ParseHubModel(reference));
    HubOptions options = HubOptions::FromEnvironment();
    if (!job.cache_dir.empty()) options.cache_folder = job.cache_dir;
    options.progress = [&job](const HubProgress& progress) {
      job.events.Progress({"download", progress.done_bytes, progress.total_bytes, "byte"});
    };
    options.cancelled = [&job] { return job.cancel.cancelled(); };
    absl::StatusOr<HubSnapshot> snapshot = FetchModel(model, options);
    if (!snapshot.ok() && job.cancel.cancelled()) return job.cancel.Check();
    QD_RETURN_IF_ERROR(snapshot.status(), "fetching ", reference);
    return snapshot->folder;
  };
}

}  // namespace quantd::engine
