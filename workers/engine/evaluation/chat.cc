// The file first, as transformers does; of several named templates the one named "default".
#include "workers/engine/evaluation/chat.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

constexpr int64_t kFileBytesMax = int64_t{16} << 20;

// "bos_token": "<s>" or {"content": "<s>", ...}.
std::string TokenText(const json& config, const char* name) {
  const json token = config.value(name, json());
  if (token.is_string()) return token.get<std::string>();
  return token.is_object() ? token.value("content", std::string()) : "";
}

std::string TemplateText(const json& config) {
  const json text = config.value("chat_template", json());
  if (text.is_string()) return text.get<std::string>();
  if (!text.is_array()) return "";
  for (const json& one : text) {
    if (one.is_object() && one.value("name", json()) == "default") {
      return one.value("template", std::string());
    }
  }
  return "";
}

}  // namespace

absl::StatusOr<ChatTemplate> LoadChatTemplate(const std::string& folder) {
  ChatTemplate chat;
  json config = json::object();
  if (const std::string path = folder + "/tokenizer_config.json"; FileExists(path)) {
    QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kFileBytesMax));
    config = json::parse(text, nullptr, false);
    if (!config.is_object()) return absl::DataLossError(path + ": not a JSON object");
  }
  std::string text = TemplateText(config);
  if (const std::string path = folder + "/chat_template.jinja"; FileExists(path)) {
    QD_ASSIGN_OR_RETURN(text, ReadFile(path, kFileBytesMax));
  }
  if (text.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "option \"chat_template\" is true, but ", folder,
        " has neither a chat_template.jinja nor a chat_template in tokenizer_config.json"));
  }
  QD_ASSIGN_OR_RETURN(
      chat.text,
      Template::Parse(text, {.trim_blocks = true, .lstrip_blocks = true, .strict = false}),
      "the chat template of ", folder);
  chat.bos = TokenText(config, "bos_token");
  chat.eos = TokenText(config, "eos_token");
  chat.digest = Sha256Hex(text);
  return chat;
}

absl::StatusOr<std::string> ChatTemplate::Render(absl::string_view system,
                                                 absl::string_view prompt) const {
  json messages = json::array();
  if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
  messages.push_back({{"role", "user"}, {"content", prompt}});
  QD_ASSIGN_OR_RETURN(std::string rendered,
                      text.Render({{"messages", std::move(messages)},
                                   {"add_generation_prompt", true},
                                   {"bos_token", bos},
                                   {"eos_token", eos}}),
                      "the chat template");
  return rendered;
}

}  // namespace quantd::engine
