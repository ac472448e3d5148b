// quantctl methods: what the workers can do, as they announce it.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/nearest.h"
#include "client/commands/commands.h"
#include "client/experiments.h"
#include "proto/yaml.h"

namespace quantd {
namespace {

struct Flags {
  std::string name;
  bool tasks = false;
  bool formats = false;
  bool experiments = false;
};

std::string ValueText(const google::protobuf::Value& value) {
  if (value.kind_case() == google::protobuf::Value::KIND_NOT_SET) return "";
  return std::string(absl::StripSuffix(MessageToYaml(value), "\n"));
}

std::string TypeText(v1::OptionInfo::Type type) {
  switch (type) {
    case v1::OptionInfo::BOOL:
      return "bool";
    case v1::OptionInfo::INT:
      return "int";
    case v1::OptionInfo::FLOAT:
      return "float";
    case v1::OptionInfo::STRING:
      return "string";
    default:
      return "any";
  }
}

std::string RangeText(const v1::OptionInfo& option) {
  if (!option.allowed().empty()) {
    return absl::StrJoin(option.allowed(), ", ", [](std::string* out, const auto& value) {
      absl::StrAppend(out, ValueText(value));
    });
  }
  if (option.has_minimum() && option.has_maximum()) {
    return absl::StrCat(option.minimum(), " to ", option.maximum());
  }
  if (option.has_minimum()) return absl::StrCat("at least ", option.minimum());
  if (option.has_maximum()) return absl::StrCat("at most ", option.maximum());
  return "";
}

void PrintOptions(Session& session,
                  const google::protobuf::RepeatedPtrField<v1::OptionInfo>& options) {
  if (options.empty()) return;
  Table table({{"option"}, {"type"}, {"default"}, {"allowed", Align::kLeft, 1}, {"meaning"}});
  for (const v1::OptionInfo& option : options) {
    table.AddRow({option.name(), TypeText(option.type()), ValueText(option.default_value()),
                  RangeText(option), option.help()});
  }
  for (const std::string& line :
       table.Render(session.width() > 4 ? session.width() - 2 : 0, session.style())) {
    session.out() << "  " << line << "\n";
  }
}

void PrintMethod(Session& session, const v1::MethodInfo& method) {
  session.out() << session.style().Bold(OneLine(method.name())) << "  " << OneLine(method.summary())
                << "\n";
  session.out() << "  formats: " << OneLine(absl::StrJoin(method.formats(), ", "))
                << "; calibration: " << (method.needs_calibration() ? "yes" : "no") << "\n";
  if (!method.reference().empty()) session.out() << "  " << OneLine(method.reference()) << "\n";
  PrintOptions(session, method.options());
}

void PrintTask(Session& session, const v1::TaskInfo& task) {
  session.out() << session.style().Bold(OneLine(task.name())) << "  " << OneLine(task.summary())
                << "\n";
  session.out() << "  metrics: " << OneLine(absl::StrJoin(task.metrics(), ", "))
                << "; data file: " << (task.needs_data() ? "needed" : "optional") << "\n";
  PrintOptions(session, task.options());
}

void PrintFormat(Session& session, const v1::FormatInfo& format) {
  session.out() << session.style().Bold(OneLine(format.name())) << "  " << OneLine(format.summary())
                << "\n";
  session.out() << "  loads in: " << OneLine(absl::StrJoin(format.loaders(), ", ")) << "\n";
}

// Prints the entries of one list, all or the named one. False: there is none of that name.
template <typename List, typename Print>
bool PrintNamed(Session& session, const List& list, const std::string& name, Print print) {
  bool found = name.empty();
  for (const auto& entry : list) {
    if (!name.empty() && entry.name() != name) continue;
    found = true;
    if (session.json()) {
      session.PrintJson("", entry);
    } else {
      print(session, entry);
    }
  }
  return found;
}

template <typename List>
absl::Status Unknown(const List& list, absl::string_view kind, const std::string& name) {
  std::vector<std::string> names;
  for (const auto& entry : list) names.push_back(entry.name());
  return absl::NotFoundError(
      absl::StrCat("no worker knows the ", kind, " \"", name, "\"", Suggestion(name, names)));
}

int ListExperiments(Session& session) {
  Table table({{"experiment"}, {"method"}, {"options"}});
  for (const Experiment& experiment : Experiments()) {
    if (session.json()) {
      session.PrintJson("", *ExperimentVariant(std::string(experiment.name)));
    } else {
      table.AddRow({std::string(experiment.name), std::string(experiment.method),
                    std::string(experiment.options)});
    }
  }
  if (!session.json()) session.PrintTable(table);
  return kExitOk;
}

int Run(Session& session, const Flags& flags) {
  if (flags.experiments) return ListExperiments(session);
  const absl::StatusOr<v1::Catalog> catalog = session.scheduler().Call(v1::GetCatalogRequest());
  if (!catalog.ok()) return session.Fail(catalog.status());
  const auto show = [&](const auto& list, absl::string_view kind, auto print) {
    if (PrintNamed(session, list, flags.name, print)) return static_cast<int>(kExitOk);
    return session.Fail(Unknown(list, kind, flags.name));
  };
  if (catalog->methods().empty() && catalog->tasks().empty() && !session.json()) {
    session.out() << "no worker is alive to say; start one with: quant-worker --scheduler "
                  << session.address() << "\n";
  }
  if (flags.tasks) return show(catalog->tasks(), "task", &PrintTask);
  if (flags.formats) return show(catalog->formats(), "format", &PrintFormat);
  return show(catalog->methods(), "method", &PrintMethod);
}

}  // namespace

Action DeclareMethods(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("NAME", flags->name, "Only this one");
  CLI::Option* tasks = app->add_flag("--tasks", flags->tasks, "Evaluation tasks instead");
  CLI::Option* formats =
      app->add_flag("--formats", flags->formats, "Output formats instead")->excludes(tasks);
  app->add_flag("--experiments", flags->experiments, "The named recipes of sweep --experiment")
      ->excludes(tasks)
      ->excludes(formats);
  return [flags](Session& session) { return Run(session, *flags); };
}

}  // namespace quantd
