// quantctl doctor: what is wrong between this shell and a finished job, and how to mend it. The
// container images ask it for their health.
#include "absl/strings/str_cat.h"
#include "client/commands/commands.h"
#include "client/doctor/findings.h"
#include "nlohmann/json.hpp"

namespace quantd {
namespace {

struct Flags {
  std::vector<std::string> only;
  std::string worker_metrics = "127.0.0.1:7719";
};

struct Part {
  const char* name;
  // Not looked at unless it is asked for: most machines have no worker.
  bool by_name_only;
  std::vector<Finding> (*check)(Session& session, const Flags& flags);
};
constexpr Part kParts[] = {
    {"scheduler", false, [](Session& session, const Flags&) { return CheckScheduler(session); }},
    {"worker", true,
     [](Session&, const Flags& flags) { return CheckWorker(flags.worker_metrics); }},
    {"machine", false, [](Session& session, const Flags&) { return CheckMachine(session); }},
    {"hub", false, [](Session& session, const Flags&) { return CheckHub(session); }},
};

std::string Painted(Verdict verdict, const Style& style) {
  const std::string word = absl::StrCat(
      VerdictWord(verdict), std::string(8 - std::string(VerdictWord(verdict)).size(), ' '));
  switch (verdict) {
    case Verdict::kOk:
      return style.Good(word);
    case Verdict::kNote:
      return style.Dim(word);
    case Verdict::kWarning:
      return style.Warn(word);
    case Verdict::kProblem:
      break;
  }
  return style.Bad(word);
}

void Print(Session& session, const char* part, const Finding& finding) {
  const std::string text = OneLine(finding.text);
  const std::string remedy = OneLine(finding.remedy);
  if (session.json()) {
    const nlohmann::json line = {{"part", part},
                                 {"check", OneLine(finding.check)},
                                 {"verdict", VerdictWord(finding.verdict)},
                                 {"text", text},
                                 {"remedy", remedy}};
    session.out() << line.dump() << std::endl;
    return;
  }
  session.out() << "  " << Painted(finding.verdict, session.style()) << "  "
                << OneLine(finding.check) << ": " << text << "\n";
  if (!remedy.empty()) session.out() << "            -> " << remedy << "\n";
  session.out().flush();
}

int Run(Session& session, const Flags& flags) {
  bool problem = false;
  for (const Part& part : kParts) {
    const bool named =
        std::find(flags.only.begin(), flags.only.end(), part.name) != flags.only.end();
    if (flags.only.empty() ? part.by_name_only : !named) continue;
    if (!session.json()) session.out() << session.style().Bold(part.name) << std::endl;
    for (const Finding& finding : part.check(session, flags)) {
      problem = problem || finding.verdict == Verdict::kProblem;
      Print(session, part.name, finding);
    }
  }
  return problem ? kExitJobFailed : kExitOk;
}

}  // namespace

Action DeclareDoctor(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  std::vector<std::string> names;
  for (const Part& part : kParts) names.push_back(part.name);
  app->add_option("--only", flags->only, "Look at this part only; may be repeated")
      ->allow_extra_args(false)
      ->check(CLI::IsMember(names));
  app->add_option("--worker-metrics", flags->worker_metrics,
                  "Where the worker serves its metrics, for --only worker")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  return [flags](Session& session) { return Run(session, *flags); };
}

}  // namespace quantd
