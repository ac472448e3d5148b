// A token may be a string or an object with "content"; an id a number or a list of them.
#include "workers/engine/tokenizer/special_ids.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/tokenizer/bpe.h"
#include "workers/engine/tokenizer/json_view.h"

namespace quantd {
namespace {

// tokenizer_config.json repeats the added tokens: published ones stay below 2 MiB.
constexpr int64_t kConfigLimitBytes = 64 << 20;

absl::StatusOr<std::vector<int32_t>> Ids(const JsonView& json) {
  std::vector<int32_t> ids;
  if (json.IsNull()) return ids;
  std::vector<JsonView> elements = {json};
  if (json.value().is_array()) {
    QD_ASSIGN_OR_RETURN(elements, json.Elements());
  }
  for (const JsonView& element : elements) {
    QD_ASSIGN_OR_RETURN(int64_t id, element.Integer(-1, Bpe::kIdLimit - 1));
    if (id >= 0) ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

absl::StatusOr<std::string> TokenContent(const JsonView& json) {
  if (json.IsNull()) return std::string();
  if (json.value().is_object()) return json.StringOr("content", "");
  return json.String();
}

void AddEos(int32_t id, SpecialIds* ids) {
  if (std::find(ids->eos.begin(), ids->eos.end(), id) == ids->eos.end()) ids->eos.push_back(id);
}

absl::Status ReadIdsOf(const JsonView& config, SpecialIds* ids) {
  QD_ASSIGN_OR_RETURN(JsonView bos, config.Member("bos_token_id"));
  QD_ASSIGN_OR_RETURN(std::vector<int32_t> bos_ids, Ids(bos));
  if (!ids->bos && !bos_ids.empty()) ids->bos = bos_ids.front();
  QD_ASSIGN_OR_RETURN(JsonView eos, config.Member("eos_token_id"));
  QD_ASSIGN_OR_RETURN(std::vector<int32_t> eos_ids, Ids(eos));
  for (int32_t id : eos_ids) AddEos(id, ids);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SpecialIds> ReadSpecialIds(
    const std::string& model_folder,
    const std::function<std::optional<int32_t>(absl::string_view)>& token_to_id) {
  SpecialIds ids;
  for (absl::string_view name :
       {"generation_config.json", "config.json", "tokenizer_config.json"}) {
    const std::string path = absl::StrCat(model_folder, "/", name);
    if (!FileExists(path)) continue;
    QD_ASSIGN_OR_RETURN(std::string text, ReadFile(path, kConfigLimitBytes));
    QD_ASSIGN_OR_RETURN(nlohmann::json document, JsonView::Parse(text), path);
    const JsonView config(&document, absl::StrCat(path, ": $"));
    if (name != "tokenizer_config.json") {
      QD_RETURN_IF_ERROR(ReadIdsOf(config, &ids));
      continue;
    }
    QD_ASSIGN_OR_RETURN(JsonView bos, config.Member("bos_token"));
    QD_ASSIGN_OR_RETURN(std::string bos_token, TokenContent(bos));
    if (!ids.bos && !bos_token.empty()) ids.bos = token_to_id(bos_token);
    QD_ASSIGN_OR_RETURN(JsonView eos, config.Member("eos_token"));
    QD_ASSIGN_OR_RETURN(std::string eos_token, TokenContent(eos));
    const std::optional<int32_t> eos_id = token_to_id(eos_token);
    if (!eos_token.empty() && eos_id) AddEos(*eos_id, &ids);
  }
  return ids;
}

}  // namespace quantd
