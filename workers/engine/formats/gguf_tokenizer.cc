// Writing. GGUF names a splitting rule instead of writing it down; the table of rules both ways is
// in gguf_splits.h.
#include "workers/engine/formats/gguf_tokenizer.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/formats/gguf_splits.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

constexpr int64_t kTokenizerBytesMax = int64_t{256} << 20;
constexpr int64_t kTemplateBytesMax = int64_t{4} << 20;

// A member that is there and not null, or null.
const json* Member(const json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string TextOr(const json& object, const char* name, std::string otherwise) {
  const json* value = object.is_object() ? Member(object, name) : nullptr;
  return value != nullptr && value->is_string() ? value->get<std::string>() : otherwise;
}

absl::Status Damaged(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", what));
}

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<int64_t> types;
  std::map<std::string, int64_t> ids;  // Of the model's own tokens.
};

absl::Status Place(const json& id, const std::string& token, int64_t type, Vocabulary* vocabulary) {
  const int64_t rows = static_cast<int64_t>(vocabulary->tokens.size());
  if (!id.is_number_integer() || id < 0 || id >= rows) {
    return Damaged(absl::StrCat("token ", Quoted(token), " has id ", JsonText(id),
                                ", but the model has ", rows, " tokens"));
  }
  vocabulary->tokens[id.get<size_t>()] = token;
  vocabulary->types[id.get<size_t>()] = type;
  return absl::OkStatus();
}

absl::StatusOr<Vocabulary> ReadVocabulary(const json& document, const json& model, int64_t rows) {
  Vocabulary vocabulary;
  for (int64_t i = 0; i < rows; ++i) {
    vocabulary.tokens.push_back(absl::StrCat("[PAD", i, "]"));
    vocabulary.types.push_back(kGgufUnused);
  }
  const json* vocab = Member(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return Damaged("model.vocab is no object");
  const bool bytes = model.value("byte_fallback", false);
  const std::string unknown = TextOr(model, "unk_token", "");
  for (const auto& [token, id] : vocab->items()) {
    int64_t type = kGgufNormal;
    if (bytes && IsByteToken(token)) type = kGgufByte;
    if (!unknown.empty() && token == unknown) type = kGgufUnknown;
    QD_RETURN_IF_ERROR(Place(id, token, type, &vocabulary));
    vocabulary.ids[token] = id.get<int64_t>();
  }
  const json* added = Member(document, "added_tokens");
  for (const json& token : added != nullptr && added->is_array() ? *added : json::array()) {
    if (!token.is_object() || !token.contains("id")) return Damaged("an added token has no id");
    const std::string content = TextOr(token, "content", "");
    const bool special = Member(token, "special") != nullptr && token["special"] == true;
    int64_t type = special ? kGgufControl : kGgufUserDefined;
    if (!unknown.empty() && content == unknown) type = kGgufUnknown;
    QD_RETURN_IF_ERROR(Place(token["id"], content, type, &vocabulary));
  }
  return vocabulary;
}

// Merges as "left right", however the file writes them.
absl::StatusOr<std::vector<std::string>> ReadMerges(const json& model) {
  const json* list = Member(model, "merges");
  if (list == nullptr || !list->is_array()) return Damaged("model.merges is no array");
  std::vector<std::string> merges;
  for (const json& merge : *list) {
    if (merge.is_string()) {
      merges.push_back(merge.get<std::string>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      merges.push_back(absl::StrCat(merge[0].get<std::string>(), " ", merge[1].get<std::string>()));
    } else {
      return Damaged(absl::StrCat("a merge is ", JsonText(merge), " instead of two tokens"));
    }
  }
  return merges;
}

// Sentencepiece merges the pair whose result scores highest: minus the rank of the first merge that
// makes a token.
std::vector<double> ScoresOf(const Vocabulary& vocabulary, const std::vector<std::string>& merges) {
  std::vector<double> scores(vocabulary.tokens.size(), 0);
  std::vector<bool> seen(scores.size(), false);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const size_t space = merges[rank].find(' ');
    if (space == std::string::npos) continue;
    const auto found =
        vocabulary.ids.find(merges[rank].substr(0, space) + merges[rank].substr(space + 1));
    if (found == vocabulary.ids.end() || seen[static_cast<size_t>(found->second)]) continue;
    seen[static_cast<size_t>(found->second)] = true;
    scores[static_cast<size_t>(found->second)] = -static_cast<double>(rank);
  }
  return scores;
}

// Whether the post-processor puts the token before (after) every text by itself.
bool AddsToken(const json& document, const std::string& token, bool at_end) {
  const json* processor = Member(document, "post_processor");
  if (processor == nullptr || !processor->is_object()) return false;
  std::vector<json> all = {*processor};
  if (const json* list = Member(*processor, "processors"); list != nullptr && list->is_array()) {
    all.insert(all.end(), list->begin(), list->end());
  }
  for (const json& one : all) {
    const json* single = one.is_object() ? Member(one, "single") : nullptr;
    if (single == nullptr || !single->is_array() || single->empty()) continue;
    const json& end = at_end ? single->back() : single->front();
    const json* special = end.is_object() ? Member(end, "SpecialToken") : nullptr;
    if (special != nullptr && TextOr(*special, "id", "") == token) return true;
  }
  return false;
}

// The template for conversations, wherever the folder keeps it.
absl::StatusOr<std::string> ChatTemplate(const std::string& folder) {
  const std::string file = absl::StrCat(folder, "/chat_template.jinja");
  if (FileExists(file)) return ReadFile(file, kTemplateBytesMax);
  const std::string path = absl::StrCat(folder, "/tokenizer_config.json");
  if (!FileExists(path)) return std::string();
  QD_ASSIGN_OR_RETURN(const json config, ReadJsonObject(path, kTokenizerBytesMax));
  const json* value = Member(config, "chat_template");
  if (value == nullptr) return std::string();
  if (value->is_string()) return value->get<std::string>();
  for (const json& named : value->is_array() ? *value : json::array()) {
    if (TextOr(named, "name", "") == "default") return TextOr(named, "template", "");
  }
  return std::string();
}

void AddIds(const ModelConfig& config, const json& model, const Vocabulary& vocabulary,
            GgufMetadata& metadata) {
  const auto set = [&](const char* name, int64_t id) {
    metadata.emplace(absl::StrCat("tokenizer.ggml.", name, "_token_id"), GgufValue::U32(id));
  };
  if (config.bos_token_id) set("bos", *config.bos_token_id);
  if (!config.eos_token_ids.empty()) set("eos", config.eos_token_ids.front());
  if (config.eos_token_ids.size() > 1) set("eot", config.eos_token_ids[1]);
  if (config.pad_token_id) set("padding", *config.pad_token_id);
  const auto unknown = vocabulary.ids.find(TextOr(model, "unk_token", ""));
  if (unknown != vocabulary.ids.end()) set("unknown", unknown->second);
}

std::string TokenOf(const Vocabulary& vocabulary, std::optional<int64_t> id) {
  if (!id || *id < 0 || *id >= static_cast<int64_t>(vocabulary.tokens.size())) return "";
  return vocabulary.tokens[static_cast<size_t>(*id)];
}

}  // namespace

absl::StatusOr<GgufTokenizer> GgufTokenizerOf(const std::string& folder,
                                              const ModelConfig& config) {
  const std::string path = absl::StrCat(folder, "/tokenizer.json");
  if (!FileExists(path)) {
    GgufTokenizer none;
    none.metadata.emplace("tokenizer.ggml.model", GgufValue::String("none"));
    none.caveat = "the model has no tokenizer.json, so this file takes token ids only";
    return none;
  }
  QD_ASSIGN_OR_RETURN(const json document, ReadJsonObject(path, kTokenizerBytesMax));
  const json* model = Member(document, "model");
  if (model == nullptr || !model->is_object() || !model->contains("merges")) {
    return absl::UnimplementedError(
        absl::StrCat(path, ": only BPE tokenizers can be written to GGUF"));
  }
  QD_ASSIGN_OR_RETURN(const Vocabulary vocabulary,
                      ReadVocabulary(document, *model, config.vocab_size), path);
  QD_ASSIGN_OR_RETURN(const std::vector<std::string> merges, ReadMerges(*model), path);
  GgufTokenizer result;
  GgufMetadata& metadata = result.metadata;
  const auto set = [&](const char* name, GgufValue value) {
    metadata.emplace(absl::StrCat("tokenizer.ggml.", name), std::move(value));
  };
  if (model->value("byte_fallback", false)) {
    set("model", GgufValue::String("llama"));
    set("pre", GgufValue::String("default"));
    set("scores", GgufValue::F32s(ScoresOf(vocabulary, merges)));
    set("add_space_prefix", GgufValue::Bool(PrependsSpace(document)));
  } else {
    std::string split = GgufSplitOf(document);
    if (split.empty()) {
      split = "default";
      result.caveat =
          "the tokenizer's splitting rule has no name in GGUF; readers split by their "
          "default rule, so that some texts get other tokens";
    }
    set("model", GgufValue::String("gpt2"));
    set("pre", GgufValue::String(split));
    set("merges", GgufValue::Strings(merges));
  }
  set("tokens", GgufValue::Strings(vocabulary.tokens));
  set("token_type", GgufValue::I32s(vocabulary.types));
  AddIds(config, *model, vocabulary, metadata);
  const std::string bos = TokenOf(vocabulary, config.bos_token_id);
  set("add_bos_token", GgufValue::Bool(!bos.empty() && AddsToken(document, bos, false)));
  if (!config.eos_token_ids.empty()) {
    const std::string eos = TokenOf(vocabulary, config.eos_token_ids.front());
    set("add_eos_token", GgufValue::Bool(!eos.empty() && AddsToken(document, eos, true)));
  }
  QD_ASSIGN_OR_RETURN(std::string chat, ChatTemplate(folder));
  if (!chat.empty()) metadata["tokenizer.chat_template"] = GgufValue::String(std::move(chat));
  return result;
}

}  // namespace quantd::engine
