// quantctl sweeps: sweeps that were submitted.
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/outcome.h"
#include "client/render/board.h"
#include "client/submit.h"
#include "proto/yaml.h"

namespace quantd {
namespace {

struct Flags {
  std::string sweep, output, reason;
  int limit = 50;
  bool detach = false;
};

void AddSweep(CLI::App* app, Flags* flags) {
  app->add_option("SWEEP", flags->sweep, "Sweep")->required();
}

absl::StatusOr<v1::Sweep> Get(Session& session, const std::string& text) {
  v1::GetSweepRequest request;
  QD_ASSIGN_OR_RETURN(*request.mutable_name(), session.SweepName(text));
  return session.scheduler().Call(request);
}

void PrintState(Session& session, const v1::Sweep& sweep) {
  if (session.json()) return session.PrintJson("sweep", sweep);
  session.out() << ShortName(sweep.name()) << " " << StateWord(sweep.state()) << "\n";
}

int List(Session& session, const Flags& flags) {
  v1::ListSweepsRequest request;
  request.set_parent(session.parent());
  Table table({{"sweep"},
               {"state"},
               {"age", Align::kRight},
               {"models", Align::kLeft, 2},
               {"name", Align::kLeft, 1}});
  int left = flags.limit;
  do {
    request.set_page_size(std::min(left, 1000));
    const absl::StatusOr<v1::ListSweepsResponse> page = session.scheduler().Call(request);
    if (!page.ok()) return session.Fail(page.status());
    for (const v1::Sweep& sweep : page->sweeps()) {
      if (left-- <= 0) break;
      if (session.json()) {
        session.PrintJson("sweep", sweep);
        continue;
      }
      std::string models;
      for (const std::string& model : sweep.spec().models())
        models += (models.empty() ? "" : ", ") + model;
      const absl::Time created = absl::FromUnixSeconds(sweep.create_time().seconds());
      table.AddRow({sweep.name().substr(sweep.name().rfind('/') + 1), StateWord(sweep.state()),
                    ShortDuration(absl::Now() - created), models, sweep.spec().display_name()});
    }
    request.set_page_token(page->next_page_token());
  } while (left > 0 && !request.page_token().empty());
  if (!session.json()) session.PrintTable(table);
  return kExitOk;
}

}  // namespace

Action DeclareSweepsList(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("--limit", flags->limit, "At most this many (default 50)")
      ->check(CLI::PositiveNumber);
  return [flags](Session& session) { return List(session, *flags); };
}

Action DeclareSweepsGet(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  AddSweep(app, flags.get());
  return [flags](Session& session) {
    const absl::StatusOr<v1::Sweep> sweep = Get(session, flags->sweep);
    if (!sweep.ok()) return session.Fail(sweep.status());
    if (session.json()) {
      session.PrintJson("", *sweep);
    } else {
      session.out() << MessageToYaml(*sweep);
    }
    return static_cast<int>(kExitOk);
  };
}

Action DeclareSweepsWatch(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  AddSweep(app, flags.get());
  app->add_option("-o,--output", flags->output, "Bring models and report into this folder")
      ->type_name("DIR");
  return [flags](Session& session) {
    const absl::StatusOr<v1::Sweep> sweep = Get(session, flags->sweep);
    return sweep.ok() ? WatchToTheEnd(session, *sweep, {0, flags->output})
                      : session.Fail(sweep.status());
  };
}

Action DeclareSweepsCancel(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  AddSweep(app, flags.get());
  app->add_option("--reason", flags->reason, "Kept with the jobs");
  return [flags](Session& session) {
    const absl::StatusOr<std::string> name = session.SweepName(flags->sweep);
    if (!name.ok()) return session.Fail(name.status());
    v1::CancelSweepRequest request;
    request.set_name(*name);
    request.set_reason(flags->reason);
    const absl::StatusOr<v1::Sweep> sweep = session.scheduler().Call(request);
    if (!sweep.ok()) return session.Fail(sweep.status());
    PrintState(session, *sweep);
    return static_cast<int>(kExitOk);
  };
}

Action DeclareSweepsRetry(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  AddSweep(app, flags.get());
  app->add_flag("-d,--detach", flags->detach, "Do not watch");
  app->add_option("-o,--output", flags->output, "Bring models and report into this folder")
      ->type_name("DIR");
  return [flags](Session& session) {
    SubmitFlags submit;
    submit.detach = flags->detach;
    submit.output = flags->output;
    return RetrySweep(session, flags->sweep, submit);
  };
}

}  // namespace quantd
