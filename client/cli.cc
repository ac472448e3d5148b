// CLI11 set up from the table; its exceptions end here.
#include "client/cli.h"

#include <algorithm>
#include <exception>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/nearest.h"

namespace quantd {
namespace {

constexpr char kFooter[] =
    "Exit codes: 0 ok, 1 job failed, 2 usage, 3 not found, 4 not allowed, 5 scheduler "
    "unavailable,\n"
    "            124 --timeout ran out, 130 detached with Ctrl-C (the job goes on)\n"
    "Settings:   flags, then QUANTD_SCHEDULER, QUANTD_TENANT, QUANTD_TOKEN (or QUANTD_TOKEN_FILE) "
    "and\n"
    "            QUANTD_TLS, then ~/.config/quantd/client.yaml and ~/.config/quantd/token";

void AddGlobalFlags(CLI::App* app, GlobalFlags* flags) {
  app->add_option("--scheduler", flags->connect.address,
                  "Scheduler to talk to (default 127.0.0.1:7717)")
      ->type_name("HOST:PORT");
  app->add_option("--tenant", flags->tenant, "Whose jobs these are (default \"default\")")
      ->type_name("NAME");
  ConnectOptions* connect = &flags->connect;
  app->add_option("--token-file", connect->token_file, "File with your access token")
      ->type_name("FILE");
  app->add_flag("--tls", connect->tls, "TLS with the system's authorities");
  app->add_option("--tls-ca", connect->tls_ca, "TLS with this authority (PEM)")->type_name("FILE");
  app->add_option("--tls-cert", connect->tls_cert, "Your certificate, where one is wanted (PEM)")
      ->type_name("FILE");
  app->add_option("--tls-key", connect->tls_key, "Its private key (PEM)")->type_name("FILE");
  app->add_option("--tls-server-name", connect->tls_server_name,
                  "Name in the scheduler's certificate, if not the address's")
      ->type_name("NAME");
  app->add_flag("--insecure", connect->insecure, "Send the token to another machine without TLS");
  app->add_option("--timeout", flags->timeout, "Stop waiting after this long: 30s, 15m, 1h30m")
      ->type_name("TIME");
  app->add_flag("--json", flags->json, "Print proto3-JSON, one object a line");
}

std::vector<CLI::App*> Children(CLI::App* app) {
  return app->get_subcommands([](CLI::App*) { return true; });
}

CLI::App* Child(CLI::App* app, const std::string& name) {
  for (CLI::App* child : Children(app)) {
    if (child->get_name() == name) return child;
  }
  return nullptr;
}

// The group's app, made when its first command comes.
CLI::App* Group(CLI::App* root, absl::string_view word) {
  const std::string name(word);
  if (CLI::App* found = Child(root, name); found != nullptr) return found;
  std::string summary;
  for (const CommandGroup& group : CommandGroups()) {
    if (group.word == word) summary = std::string(group.summary);
  }
  CLI::App* group = root->add_subcommand(name, summary);
  group->require_subcommand(1);
  group->fallthrough();
  return group;
}

void Declare(CLI::App* root, const Command& command, Action* chosen) {
  const std::vector<std::string> words = absl::StrSplit(command.words, ' ');
  CLI::App* parent = words.size() > 1 ? Group(root, words[0]) : root;
  CLI::App* app = parent->add_subcommand(words.back(), std::string(command.summary));
  app->fallthrough();
  if (!command.example.empty()) app->footer(absl::StrCat("Example: ", command.example));
  const Action action = command.declare(app);
  app->callback([chosen, action] { *chosen = action; });
}

// "unknown command" with the nearest one, where the first word that is no flag names none.
std::string NearestCommand(CLI::App* root, const std::vector<std::string>& arguments) {
  CLI::App* app = root;
  for (const std::string& word : arguments) {
    if (absl::StartsWith(word, "-")) return "";
    if (CLI::App* next = Child(app, word); next != nullptr) {
      app = next;
      continue;
    }
    std::vector<std::string> names;
    for (const CLI::App* known : Children(app)) names.push_back(known->get_name());
    if (names.empty()) return "";
    return absl::StrCat("unknown command \"", word, "\"", Suggestion(word, names));
  }
  return "";
}

}  // namespace

int RunClient(const std::vector<std::string>& arguments, const Environment& environment) {
  GlobalFlags flags;
  Action action;
  CLI::App root("Quantize, evaluate and compare models on quantd workers.", "quantctl");
  root.require_subcommand(1);
  root.footer(kFooter);
  root.set_version_flag("--version", QUANTD_VERSION);
  AddGlobalFlags(&root, &flags);
  try {
    for (const Command& command : Commands()) Declare(&root, command, &action);
    root.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::Success& success) {
    return root.exit(success, *environment.out, *environment.err);
  } catch (const CLI::ParseError& error) {
    const std::string unknown = NearestCommand(&root, arguments);
    *environment.err << "quantctl: " << (unknown.empty() ? error.what() : unknown)
                     << "\n  quantctl --help and quantctl COMMAND --help list what there is"
                     << std::endl;
    return kExitUsage;
  }
  Session session(environment, flags);
  try {
    if (const absl::Status status = session.Configure(); !status.ok()) return session.Fail(status);
    return action(session);
  } catch (const std::exception& error) {
    return session.Fail(absl::InternalError(absl::StrCat("unexpected: ", error.what())));
  }
}

}  // namespace quantd
