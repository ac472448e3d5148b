// The command line from end to end: one table of subcommands yields parsing, help, completion and
// dispatch.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "CLI/App.hpp"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "client/session.h"

namespace quantd {

// Runs a parsed command; returns the exit code.
using Action = std::function<int(Session&)>;

struct Command {
  // "jobs watch": a group and a command, or one word.
  absl::string_view words;
  absl::string_view summary;
  // Shown in the command's help.
  absl::string_view example;
  // Adds the command's flags to `app` and returns what runs it.
  Action (*declare)(CLI::App* app);
};
// commands/table.cc.
absl::Span<const Command> Commands();

struct CommandGroup {
  absl::string_view word;
  absl::string_view summary;
};
absl::Span<const CommandGroup> CommandGroups();

// `arguments` without the program's name.
int RunClient(const std::vector<std::string>& arguments, const Environment& environment);

}  // namespace quantd
