// The pipeline: added tokens, normalizer, pre-tokenizer, model, post-processor; and back.
#include "workers/engine/tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/tokenizer/added_vocabulary.h"
#include "workers/engine/tokenizer/bpe.h"
#include "workers/engine/tokenizer/decoder.h"
#include "workers/engine/tokenizer/json_view.h"
#include "workers/engine/tokenizer/normalizer.h"
#include "workers/engine/tokenizer/post_processor.h"
#include "workers/engine/tokenizer/pre_tokenizer.h"
#include "workers/engine/tokenizer/special_ids.h"

namespace quantd {
namespace {

// The largest published file has about 35 MB.
constexpr int64_t kFileLimitBytes = 256 << 20;

// Ids of words seen before. Text repeats its words, so a small cache saves most of the merging.
class WordCache {
 public:
  void Append(const Bpe& model, const std::string& word, std::vector<int32_t>* ids) {
    if (word.size() > kWordLimitBytes) return model.Encode(word, ids);
    Shard& shard = shards_[absl::HashOf(word) % shards_.size()];
    {
      absl::MutexLock lock(&shard.mutex);
      auto found = shard.ids.find(word);
      if (found != shard.ids.end()) {
        ids->insert(ids->end(), found->second.begin(), found->second.end());
        return;
      }
    }
    const size_t before = ids->size();
    model.Encode(word, ids);
    absl::MutexLock lock(&shard.mutex);
    if (shard.ids.size() >= kShardLimit) shard.ids.clear();
    shard.ids.try_emplace(word, ids->begin() + before, ids->end());
  }

 private:
  // Longer words rarely come twice; with the limit of a shard this bounds the cache to some 32 MiB.
  static constexpr size_t kWordLimitBytes = 128;
  static constexpr size_t kShardLimit = 4096;
  struct Shard {
    absl::Mutex mutex;
    absl::flat_hash_map<std::string, std::vector<int32_t>> ids;
  };
  std::array<Shard, 16> shards_;
};

// The byte at which `text` stops being UTF-8.
size_t InvalidOffset(absl::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    const size_t at = position;
    if (DecodeUtf8(text, &position) < 0) return at;
  }
  return position;
}

}  // namespace

struct Tokenizer::State {
  std::unique_ptr<Normalizer> normalizer;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  std::unique_ptr<Bpe> model;
  std::unique_ptr<PostProcessor> post_processor;
  std::unique_ptr<TokenDecoder> decoder;
  AddedVocabulary added;
  SpecialIds special;
  std::string digest;
  mutable WordCache cache;

  absl::Status Read(const JsonView& json) {
    QD_ASSIGN_OR_RETURN(JsonView normalizer_json, json.Member("normalizer"));
    QD_ASSIGN_OR_RETURN(normalizer, Normalizer::FromJson(normalizer_json));
    QD_ASSIGN_OR_RETURN(JsonView pre_tokenizer_json, json.Member("pre_tokenizer"));
    QD_ASSIGN_OR_RETURN(pre_tokenizer, PreTokenizer::FromJson(pre_tokenizer_json));
    QD_ASSIGN_OR_RETURN(JsonView model_json, json.Member("model"));
    QD_ASSIGN_OR_RETURN(model, Bpe::FromJson(model_json));
    QD_ASSIGN_OR_RETURN(JsonView post_processor_json, json.Member("post_processor"));
    QD_ASSIGN_OR_RETURN(post_processor, PostProcessor::FromJson(post_processor_json));
    QD_ASSIGN_OR_RETURN(JsonView decoder_json, json.Member("decoder"));
    QD_ASSIGN_OR_RETURN(decoder, TokenDecoder::FromJson(decoder_json));
    QD_ASSIGN_OR_RETURN(JsonView added_json, json.Member("added_tokens"));
    QD_ASSIGN_OR_RETURN(added, AddedVocabulary::FromJson(added_json, *model, normalizer.get()));
    return absl::OkStatus();
  }
};

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(absl::string_view json,
                                                            absl::string_view name) {
  QD_ASSIGN_OR_RETURN(nlohmann::json document, JsonView::Parse(json), name);
  auto state = std::make_unique<State>();
  QD_RETURN_IF_ERROR(state->Read(JsonView(&document, "$")), name);
  state->digest = Sha256Hex(json);
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(state)));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_folder) {
  const std::string path = absl::StrCat(model_folder, "/tokenizer.json");
  if (!FileExists(path)) {
    return absl::NotFoundError(absl::StrCat(
        "no tokenizer.json in ", model_folder,
        FileExists(model_folder + "/tokenizer.model")
            ? ": convert its tokenizer.model (AutoTokenizer of transformers does, with "
              "save_pretrained)"
            : ""));
  }
  QD_ASSIGN_OR_RETURN(std::string json, ReadFile(path, kFileLimitBytes));
  absl::StatusOr<std::unique_ptr<Tokenizer>> parsed = Parse(json, path);
  // For Parse the text is an argument; for whoever loads a model it is a damaged file.
  if (absl::IsInvalidArgument(parsed.status())) {
    return absl::DataLossError(parsed.status().message());
  }
  QD_RETURN_IF_ERROR(parsed.status());
  std::unique_ptr<Tokenizer> tokenizer = *std::move(parsed);
  QD_ASSIGN_OR_RETURN(tokenizer->state_->special,
                      ReadSpecialIds(model_folder, [&](absl::string_view token) {
                        return tokenizer->TokenToId(token);
                      }));
  return tokenizer;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(absl::string_view utf8,
                                                       const EncodeOptions& options) const {
  if (utf8.size() > static_cast<size_t>(kTextLimitBytes)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("encoding a text of ", FormatBytes(utf8.size()), ": at most ",
                     FormatBytes(kTextLimitBytes), "; encode it in parts"));
  }
  if (!IsValidUtf8(utf8)) {
    return absl::InvalidArgumentError(
        absl::StrCat("encoding a text: not valid UTF-8 at byte ", InvalidOffset(utf8)));
  }
  QD_ASSIGN_OR_RETURN(std::vector<Piece> pieces,
                      state_->added.Split(utf8, state_->normalizer.get()));
  if (state_->pre_tokenizer != nullptr) {
    QD_RETURN_IF_ERROR(state_->pre_tokenizer->Apply(&pieces));
  }
  std::vector<int32_t> ids;
  ids.reserve(utf8.size() / 3);
  for (const Piece& piece : pieces) {
    if (piece.added_id >= 0) {
      ids.push_back(piece.added_id);
    } else {
      state_->cache.Append(*state_->model, piece.text, &ids);
    }
  }
  if (options.add_special_tokens && state_->post_processor != nullptr) {
    state_->post_processor->Apply(&ids);
  }
  return ids;
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, const DecodeOptions& options) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (int32_t id : ids) {
    if (options.skip_special_tokens && state_->added.IsSpecial(id)) continue;
    std::string token = IdToToken(id);
    if (!token.empty()) tokens.push_back(std::move(token));
  }
  if (state_->decoder == nullptr) return absl::StrJoin(tokens, " ");
  state_->decoder->Apply(&tokens);
  return absl::StrJoin(tokens, "");
}

int32_t Tokenizer::vocab_size() const {
  return 1 + std::max(state_->model->id_max(), state_->added.id_max());
}

std::optional<int32_t> Tokenizer::bos_id() const { return state_->special.bos; }

std::optional<int32_t> Tokenizer::eos_id() const {
  if (state_->special.eos.empty()) return std::nullopt;
  return state_->special.eos.front();
}

const std::vector<int32_t>& Tokenizer::eos_ids() const { return state_->special.eos; }

std::optional<int32_t> Tokenizer::TokenToId(absl::string_view token) const {
  const std::optional<int32_t> id = state_->added.Find(token);
  return id ? id : state_->model->Find(token);
}

std::string Tokenizer::IdToToken(int32_t id) const {
  const std::string* added = state_->added.Token(id);
  return added != nullptr ? *added : std::string(state_->model->Token(id));
}

const std::string& Tokenizer::digest() const { return state_->digest; }

}  // namespace quantd
