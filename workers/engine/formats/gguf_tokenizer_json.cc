// Reading: metadata become a tokenizer.json, which the tokenizer room then judges like any other.
#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/formats/gguf_splits.h"
#include "workers/engine/formats/gguf_tokenizer.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

// Longer tokens are runs of spaces or dashes; splitting a token tries every place in it.
constexpr size_t kTokenBytesMax = 1024;
constexpr char kSpace[] = "\xe2\x96\x81";  // U+2581, sentencepiece's space.

// tokenizer.ggml.* as typed values.
class Metadata {
 public:
  explicit Metadata(const GgufFile& file) : file_(file) {}
  const GgufValue* Find(absl::string_view name) const {
    return file_.Value(absl::StrCat("tokenizer.ggml.", name));
  }
  std::string Text(absl::string_view name) const {
    const GgufValue* value = Find(name);
    return value != nullptr && value->text() != nullptr ? *value->text() : "";
  }
  const std::vector<std::string>* Texts(absl::string_view name) const {
    const GgufValue* value = Find(name);
    return value == nullptr ? nullptr : value->texts();
  }
  int64_t Int(absl::string_view name, int64_t otherwise) const {
    const GgufValue* value = Find(name);
    return value != nullptr && value->integer() != nullptr ? *value->integer() : otherwise;
  }
  absl::Status Damaged(absl::string_view what) const {
    return absl::DataLossError(absl::StrCat(file_.path(), ": tokenizer.ggml.", what));
  }

 private:
  const GgufFile& file_;
};

struct Tokens {
  std::vector<std::string> text;
  std::vector<int64_t> type;
  absl::flat_hash_map<std::string, int64_t> ids;
};

absl::StatusOr<Tokens> ReadTokens(const Metadata& metadata) {
  Tokens tokens;
  const std::vector<std::string>* text = metadata.Texts("tokens");
  if (text == nullptr || text->empty()) return metadata.Damaged("tokens is missing or no strings");
  tokens.text = *text;
  const GgufValue* types = metadata.Find("token_type");
  const auto* numbers = types == nullptr ? nullptr : types->integers();
  tokens.type = numbers == nullptr ? std::vector<int64_t>(text->size(), kGgufNormal) : *numbers;
  if (tokens.type.size() != text->size()) {
    return metadata.Damaged(absl::StrCat("token_type has ", tokens.type.size(), " numbers for ",
                                         text->size(), " tokens"));
  }
  for (size_t i = 0; i < text->size(); ++i) {
    if (!IsValidUtf8((*text)[i])) {
      return metadata.Damaged(absl::StrCat("tokens: token ", i, " is not valid UTF-8"));
    }
    if (!tokens.ids.emplace((*text)[i], static_cast<int64_t>(i)).second) {
      return metadata.Damaged(absl::StrCat("tokens: ", Quoted((*text)[i]), " appears twice"));
    }
  }
  return tokens;
}

bool IsAdded(int64_t type) { return type == kGgufControl || type == kGgufUserDefined; }

// Sentencepiece's scores as the list of merges that they mean: best score first, then the pieces
// with the smallest ids.
absl::StatusOr<json> MergesOfScores(const Metadata& metadata, const Tokens& tokens) {
  const GgufValue* value = metadata.Find("scores");
  const auto* scores = value == nullptr ? nullptr : value->fractions();
  if (scores == nullptr || scores->size() != tokens.text.size()) {
    return metadata.Damaged("scores are missing or not one a token");
  }
  struct Merge {
    double score;
    int64_t left, right;
  };
  std::vector<Merge> merges;
  for (size_t id = 0; id < tokens.text.size(); ++id) {
    const std::string& token = tokens.text[id];
    if (tokens.type[id] != kGgufNormal) continue;
    if (token.size() > kTokenBytesMax) {
      return metadata.Damaged(absl::StrCat("tokens: token ", id, " has ", token.size(),
                                           " bytes; at most ", kTokenBytesMax, " are read"));
    }
    for (size_t at = 1; at < token.size(); ++at) {
      if ((token[at] & 0xc0) == 0x80) continue;  // Within a character.
      const auto left = tokens.ids.find(token.substr(0, at));
      const auto right = tokens.ids.find(token.substr(at));
      if (left == tokens.ids.end() || right == tokens.ids.end()) continue;
      if (IsAdded(tokens.type[left->second]) || IsAdded(tokens.type[right->second])) continue;
      merges.push_back({(*scores)[id], left->second, right->second});
    }
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    if (a.score != b.score) return a.score > b.score;
    return std::tie(a.left, a.right) < std::tie(b.left, b.right);
  });
  json list = json::array();
  for (const Merge& merge : merges) {
    list.push_back({tokens.text[static_cast<size_t>(merge.left)],
                    tokens.text[static_cast<size_t>(merge.right)]});
  }
  return list;
}

void SetSentencePiece(bool prefix, json* tokenizer) {
  json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpace}};
  json back = {{"type", "Replace"}, {"pattern", {{"String", kSpace}}}, {"content", " "}};
  json normalizers = json::array();
  json decoders = {back, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  if (prefix) {
    normalizers.push_back({{"type", "Prepend"}, {"prepend", kSpace}});
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  normalizers.push_back(replace);
  (*tokenizer)["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
  (*tokenizer)["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
}

// A token put before every text.
void SetPrefixToken(const std::string& token, int64_t id, json* tokenizer) {
  const json special = {{"SpecialToken", {{"id", token}, {"type_id", 0}}}};
  const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json other = {{"Sequence", {{"id", "B"}, {"type_id", 0}}}};
  (*tokenizer)["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", json::array({special, text})},
      {"pair", json::array({special, text, special, other})},
      {"special_tokens",
       {{token, {{"id", token}, {"ids", json::array({id})}, {"tokens", json::array({token})}}}}}};
}

}  // namespace

absl::StatusOr<std::string> TokenizerJsonOf(const GgufFile& file) {
  const Metadata metadata(file);
  QD_ASSIGN_OR_RETURN(const Tokens tokens, ReadTokens(metadata));
  const std::string kind = metadata.Text("model");
  const bool pieces = kind == "llama";
  if (!pieces && kind != "gpt2") {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": tokenizer.ggml.model is ",
                                                 Quoted(kind), "; gpt2 and llama are read"));
  }
  json model = {{"type", "BPE"}, {"byte_fallback", pieces}, {"fuse_unk", pieces}};
  json document = {{"version", "1.0"}};
  json vocab = json::object();
  json added = json::array();
  for (size_t i = 0; i < tokens.text.size(); ++i) {
    if (tokens.type[i] == kGgufUnused) continue;
    if (tokens.type[i] == kGgufUnknown) model["unk_token"] = tokens.text[i];
    vocab[tokens.text[i]] = i;  // Added ones too: those without a place get one at the end.
    if (!IsAdded(tokens.type[i]) && tokens.type[i] != kGgufUnknown) continue;
    added.push_back({{"id", i},
                     {"content", tokens.text[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", tokens.type[i] != kGgufUserDefined}});
  }
  if (pieces) {
    QD_ASSIGN_OR_RETURN(model["merges"], MergesOfScores(metadata, tokens));
    SetSentencePiece(metadata.Int("add_space_prefix", 1) != 0, &document);
  } else {
    const std::vector<std::string>* merges = metadata.Texts("merges");
    if (merges == nullptr) return metadata.Damaged("merges is missing");
    model["merges"] = *merges;
    const std::string split = metadata.Text("pre");
    model["ignore_merges"] = split == "llama-bpe" || split == "llama3" || split == "llama-v3";
    document["decoder"] = {{"type", "ByteLevel"}};
    if (!SetGgufSplit(split, &document)) {
      return absl::UnimplementedError(absl::StrCat(file.path(), ": tokenizer.ggml.pre is ",
                                                   Quoted(split), "; this engine reads ",
                                                   GgufSplitNames()));
    }
  }
  const int64_t bos = metadata.Int("bos_token_id", -1);
  const bool adds_bos = metadata.Int("add_bos_token", pieces ? 1 : 0) != 0;
  if (adds_bos && bos >= 0 && bos < static_cast<int64_t>(tokens.text.size())) {
    SetPrefixToken(tokens.text[static_cast<size_t>(bos)], bos, &document);
  }
  model["vocab"] = std::move(vocab);
  document["model"] = std::move(model);
  document["added_tokens"] = std::move(added);
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const Checkpoint& checkpoint) {
  const std::string path = absl::StrCat(checkpoint.folder(), "/tokenizer.json");
  if (checkpoint.gguf() == nullptr || FileExists(path)) return Tokenizer::Load(checkpoint.folder());
  QD_ASSIGN_OR_RETURN(const std::string text, TokenizerJsonOf(*checkpoint.gguf()));
  return Tokenizer::Parse(text, checkpoint.gguf()->path());
}

}  // namespace quantd::engine
