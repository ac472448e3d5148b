// quantctl completion: scripts for bash, zsh and fish, from the parser's own tree, so that they
// know every command and flag that it knows.
#include <algorithm>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "client/commands/commands.h"

namespace quantd {
namespace {

// One node of the tree: "jobs list", its words and flags.
struct Node {
  std::string path;
  std::string summary;
  std::vector<std::string> children;
  std::vector<std::pair<std::string, std::string>> flags;  // "--bits", help.
};

void Collect(const CLI::App* app, const std::string& path, std::vector<Node>* nodes) {
  Node node;
  node.path = path;
  node.summary = app->get_description();
  for (const CLI::Option* option : app->get_options()) {
    for (const std::string& name : option->get_lnames()) {
      node.flags.emplace_back("--" + name, option->get_description());
    }
  }
  const auto children = app->get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* child : children) node.children.push_back(child->get_name());
  nodes->push_back(node);
  for (const CLI::App* child : children) {
    Collect(child, absl::StrCat(path, path.empty() ? "" : " ", child->get_name()), nodes);
  }
}

std::vector<std::string> FlagNames(const Node& node) {
  std::vector<std::string> names;
  for (const auto& [name, help] : node.flags) names.push_back(name);
  return names;
}

// Shared by bash and zsh: cases from the words typed to the words possible. `nodes[0]` is the root,
// whose flags every command has.
std::string Cases(const std::vector<Node>& nodes) {
  std::string text;
  for (const Node& node : nodes) {
    std::vector<std::string> words = node.children;
    for (const std::string& flag : FlagNames(node)) words.push_back(flag);
    if (!node.path.empty()) {
      for (const std::string& flag : FlagNames(nodes[0])) {
        if (std::find(words.begin(), words.end(), flag) == words.end() && flag != "--version") {
          words.push_back(flag);
        }
      }
    }
    absl::StrAppend(&text, "    \"", node.path, "\") possible=\"", absl::StrJoin(words, " "),
                    "\" ;;\n");
  }
  return text;
}

std::string Groups(const std::vector<Node>& nodes) {
  std::vector<std::string> groups;
  for (const Node& node : nodes) {
    if (!node.path.empty() && !node.children.empty()) groups.push_back(node.path);
  }
  return absl::StrJoin(groups, "|");
}

// Finds the command typed so far: its first word, and the second where the first is a group.
constexpr char kPathLoop[] = R"(  chosen=""
  for word in "${typed[@]}"; do
    case "$word" in
      -*) continue ;;
    esac
    case "$chosen" in
      "") chosen="$word" ;;
      @GROUPS@) chosen="$chosen $word"; break ;;
      *) break ;;
    esac
  done
  case "$chosen" in
@CASES@    *) possible="" ;;
  esac
)";

std::string Fill(absl::string_view script, const std::vector<Node>& nodes) {
  const std::string looped = absl::StrReplaceAll(script, {{"@LOOP@", kPathLoop}});
  return absl::StrReplaceAll(looped, {{"@GROUPS@", Groups(nodes)}, {"@CASES@", Cases(nodes)}});
}

std::string Bash(const std::vector<Node>& nodes) {
  return Fill(R"(# bash completion of quantctl: source <(quantctl completion bash)
_quantctl() {
  local chosen word possible typed
  typed=("${COMP_WORDS[@]:1:COMP_CWORD-1}")
@LOOP@  COMPREPLY=($(compgen -W "$possible" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _quantctl quantctl
)",
              nodes);
}

std::string Zsh(const std::vector<Node>& nodes) {
  return Fill(R"(#compdef quantctl
# zsh completion of quantctl: source <(quantctl completion zsh)
_quantctl() {
  local chosen word possible
  local -a typed
  typed=("${words[@]:1:$((CURRENT-2))}")
@LOOP@  compadd -- ${=possible}
  _files
}
compdef _quantctl quantctl
)",
              nodes);
}

std::string FishQuoted(absl::string_view text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"'", "\\'"}}), "'");
}

std::string Fish(const std::vector<Node>& nodes) {
  std::string text = "# fish completion of quantctl: quantctl completion fish | source\n";
  std::map<std::string, std::string> summaries;
  for (const Node& node : nodes) summaries[node.path] = node.summary;
  for (const Node& node : nodes) {
    std::string condition = "__fish_use_subcommand";
    if (!node.path.empty()) {
      condition = absl::StrCat(
          "__fish_seen_subcommand_from ",
          absl::StrReplaceAll(node.path, {{" ", "; and __fish_seen_subcommand_from "}}));
    }
    std::string children = condition;
    if (!node.path.empty() && !node.children.empty()) {
      absl::StrAppend(&children, "; and not __fish_seen_subcommand_from ",
                      absl::StrJoin(node.children, " "));
    }
    for (const std::string& child : node.children) {
      const std::string path = absl::StrCat(node.path, node.path.empty() ? "" : " ", child);
      absl::StrAppend(&text, "complete -c quantctl -n ", FishQuoted(children), " -f -a ", child,
                      " -d ", FishQuoted(summaries[path]), "\n");
    }
    for (const auto& [name, help] : node.flags) {
      const std::string when = node.path.empty() ? "" : absl::StrCat(" -n ", FishQuoted(condition));
      absl::StrAppend(&text, "complete -c quantctl", when, " -l ", name.substr(2), " -d ",
                      FishQuoted(help), "\n");
    }
  }
  return text;
}

}  // namespace

Action DeclareCompletion(CLI::App* app) {
  const auto shell = std::make_shared<std::string>();
  app->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  return [app, shell](Session& session) {
    const CLI::App* root = app;
    while (root->get_parent() != nullptr) root = root->get_parent();
    std::vector<Node> nodes;
    Collect(root, "", &nodes);
    session.out() << (*shell == "bash" ? Bash(nodes) : *shell == "zsh" ? Zsh(nodes) : Fish(nodes));
    return static_cast<int>(kExitOk);
  };
}

}  // namespace quantd
