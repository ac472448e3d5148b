// quantctl explain: why a job waits, or where its time goes.
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "base/trace.h"
#include "client/commands/commands.h"
#include "client/render/board.h"
#include "client/render/explanation.h"
#include "client/render/otlp.h"
#include "nlohmann/json.hpp"

namespace quantd {
namespace {

// A job with more is a report: its dependencies are told by the scheduler's own words.
constexpr int kDependenciesMax = 20;

absl::StatusOr<ExplainedJob> Gather(Session& session, const std::string& text) {
  Scheduler& scheduler = session.scheduler();
  v1::GetJobRequest get;
  QD_ASSIGN_OR_RETURN(*get.mutable_name(), session.JobName(text));
  ExplainedJob explained;
  QD_ASSIGN_OR_RETURN(explained.job, scheduler.Call(get));
  v1::WatchJobRequest watch;
  watch.set_name(get.name());
  watch.set_snapshot(true);
  for (const char* kind : kExplainedKinds) watch.add_kinds(kind);
  QD_RETURN_IF_ERROR(scheduler.Stream(watch, [&](const v1::JobEvent& event) {
    if (event.sequence() > 0) explained.events.push_back(event);
    return true;
  }));
  if (IsEnded(explained.job.state())) return explained;
  for (const v1::Dependency& dependency : explained.job.spec().dependencies()) {
    if (explained.dependencies.size() >= kDependenciesMax) break;
    QD_ASSIGN_OR_RETURN(*get.mutable_name(), session.JobName(dependency.job()));
    QD_ASSIGN_OR_RETURN(explained.dependencies.emplace_back(), scheduler.Call(get));
  }
  v1::ListWorkersRequest list;
  do {
    QD_ASSIGN_OR_RETURN(const v1::ListWorkersResponse page, scheduler.Call(list));
    for (const v1::Worker& worker : page.workers()) explained.workers.push_back(worker);
    list.set_page_token(page.next_page_token());
  } while (!list.page_token().empty());
  return explained;
}

struct Flags {
  std::string job;
  bool otlp = false;
};

int Run(Session& session, const Flags& flags) {
  const absl::StatusOr<ExplainedJob> explained = Gather(session, flags.job);
  if (!explained.ok()) return session.Fail(explained.status());
  const absl::Time now = absl::Now();
  if (flags.otlp) {
    session.out() << OtlpTrace(*explained, now) << std::endl;
    return kExitOk;
  }
  if (session.json()) {
    nlohmann::json spans = nlohmann::json::array();
    for (const Span& span : SpansOf(explained->events, now)) {
      spans.push_back({{"what", span.what},
                       {"attempt", span.attempt},
                       {"seconds", absl::ToDoubleSeconds(span.time)}});
    }
    const nlohmann::json line = {{"job", explained->job.name()},
                                 {"traceId", TraceId(explained->job.name())},
                                 {"state", StateWord(explained->job.state())},
                                 {"waitingReason", OneLine(explained->job.waiting_reason())},
                                 {"queuePosition", explained->job.queue_position()},
                                 {"spans", spans}};
    session.out() << line.dump() << std::endl;
    return kExitOk;
  }
  for (const std::string& line : ExplanationLines(*explained, now, session.style())) {
    session.out() << line << "\n";
  }
  session.out().flush();
  return kExitOk;
}

}  // namespace

Action DeclareExplain(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("JOB", flags->job, "Job")->required();
  app->add_flag("--otlp", flags->otlp,
                "Print its spans as OpenTelemetry JSON, for a collector's /v1/traces");
  return [flags](Session& session) { return Run(session, *flags); };
}

}  // namespace quantd
