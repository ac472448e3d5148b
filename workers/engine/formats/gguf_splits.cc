// A rule is a regular expression, whether digits group in it being what tells most of them apart.
#include "workers/engine/formats/gguf_splits.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

struct Split {
  absl::string_view name;
  absl::string_view regex;  // Empty: the one that ByteLevel has built in, GPT-2's.
  bool composes;            // Text is brought to NFC first.
};

constexpr Split kSplits[] = {
    {"gpt-2", "", false},
    {"llama-bpe",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     false},
    {"qwen2",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     true},
};
// Other names that readers take for one of the above.
struct Alias {
  absl::string_view name;
  absl::string_view same_as;
};
constexpr Alias kAliases[] = {{"llama3", "llama-bpe"},
                              {"llama-v3", "llama-bpe"},
                              {"phi-2", "gpt-2"},
                              {"gpt2", "gpt-2"},
                              {"smollm", "gpt-2"}};

// Sections one after the other, whether the file nests them in a Sequence or not.
std::vector<json> Parts(const json& tokenizer, const char* section, const char* list) {
  const auto found = tokenizer.find(section);
  if (found == tokenizer.end() || !found->is_object()) return {};
  const auto parts = found->find(list);
  if (parts == found->end() || !parts->is_array()) return {*found};
  return std::vector<json>(parts->begin(), parts->end());
}

std::string Type(const json& part) {
  const auto type = part.find("type");
  return type != part.end() && type->is_string() ? type->get<std::string>() : "";
}

}  // namespace

bool IsByteToken(absl::string_view token) {
  return token.size() == 6 && absl::StartsWith(token, "<0x") && token[5] == '>' &&
         absl::ascii_isxdigit(static_cast<unsigned char>(token[3])) &&
         absl::ascii_isxdigit(static_cast<unsigned char>(token[4]));
}

std::string GgufSplitOf(const json& tokenizer) {
  std::string regex;
  bool byte_level = false;
  for (const json& part : Parts(tokenizer, "pre_tokenizer", "pretokenizers")) {
    if (Type(part) == "Split" && regex.empty() && !byte_level) {
      const json pattern = part.value("pattern", json::object());
      const bool plain =
          part.value("behavior", "") == "Isolated" && part.value("invert", false) == false;
      if (!plain || !pattern.contains("Regex") || !pattern["Regex"].is_string()) return "";
      regex = pattern["Regex"].get<std::string>();
    } else if (Type(part) == "ByteLevel" && !byte_level) {
      byte_level = true;
      // GPT-2's own rule after another cuts further; a space put in front is another rule.
      if (part.value("use_regex", true) != regex.empty()) return "";
      if (part.value("add_prefix_space", false)) return "";
    } else {
      return "";
    }
  }
  if (!byte_level) return "";
  for (const Split& split : kSplits) {
    if (split.regex == regex) return std::string(split.name);
  }
  return "";
}

bool SetGgufSplit(absl::string_view name, json* tokenizer) {
  for (const Alias& alias : kAliases) {
    if (alias.name == name) name = alias.same_as;
  }
  for (const Split& split : kSplits) {
    if (split.name != name) continue;
    const json byte_level = {{"type", "ByteLevel"},
                             {"add_prefix_space", false},
                             {"trim_offsets", true},
                             {"use_regex", split.regex.empty()}};
    if (split.composes) (*tokenizer)["normalizer"] = {{"type", "NFC"}};
    if (split.regex.empty()) {
      (*tokenizer)["pre_tokenizer"] = byte_level;
      return true;
    }
    const json cut = {{"type", "Split"},
                      {"pattern", {{"Regex", std::string(split.regex)}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
    (*tokenizer)["pre_tokenizer"] = {{"type", "Sequence"},
                                     {"pretokenizers", json::array({cut, byte_level})}};
    return true;
  }
  return false;
}

std::string GgufSplitNames() {
  return absl::StrJoin(kSplits, ", ", [](std::string* out, const Split& split) {
    absl::StrAppend(out, split.name);
  });
}

bool PrependsSpace(const json& tokenizer) {
  for (const json& part : Parts(tokenizer, "normalizer", "normalizers")) {
    if (Type(part) == "Prepend") return true;
  }
  for (const json& part : Parts(tokenizer, "pre_tokenizer", "pretokenizers")) {
    if (Type(part) == "Metaspace") return part.value("prepend_scheme", "always") != "never";
  }
  return false;
}

}  // namespace quantd::engine
