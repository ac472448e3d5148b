// Merging with a priority queue over a linked list: n log n in the length of a word.
#include "workers/engine/tokenizer/bpe.h"

#include <algorithm>
#include <queue>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "base/utf8.h"

namespace quantd {
namespace {

uint64_t PairKey(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

// A merge that may be due: the lowest rank first, then the leftmost.
struct Candidate {
  int32_t rank;
  int32_t position;
  int32_t id;
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

struct Bpe::Symbol {
  int32_t id;
  int32_t previous = -1;
  int32_t next = -1;
  bool removed = false;
};

absl::StatusOr<std::unique_ptr<Bpe>> Bpe::FromJson(const JsonView& json) {
  QD_ASSIGN_OR_RETURN(std::string type, json.StringOr("type", "BPE"));
  if (type != "BPE") return json.UnsupportedType(type, "BPE");
  std::unique_ptr<Bpe> bpe(new Bpe);
  QD_ASSIGN_OR_RETURN(bpe->prefix_, json.StringOr("continuing_subword_prefix", ""));
  QD_ASSIGN_OR_RETURN(bpe->suffix_, json.StringOr("end_of_word_suffix", ""));
  QD_ASSIGN_OR_RETURN(bpe->fuse_unknown_, json.BoolOr("fuse_unk", false));
  QD_ASSIGN_OR_RETURN(bpe->byte_fallback_, json.BoolOr("byte_fallback", false));
  QD_ASSIGN_OR_RETURN(bpe->ignore_merges_, json.BoolOr("ignore_merges", false));
  QD_RETURN_IF_ERROR(bpe->ReadVocabulary(json));
  QD_RETURN_IF_ERROR(bpe->ReadMerges(json));
  QD_ASSIGN_OR_RETURN(JsonView unknown, json.Member("unk_token"));
  if (!unknown.IsNull()) {
    QD_ASSIGN_OR_RETURN(std::string token, unknown.String());
    const std::optional<int32_t> id = bpe->Find(token);
    if (!id) {
      return unknown.Error(absl::StrCat("\"", token.substr(0, 100), "\" is not in model.vocab"));
    }
    bpe->unknown_id_ = *id;
  }
  if (bpe->byte_fallback_) {
    for (int byte = 0; byte < 256; ++byte) {
      bpe->byte_ids_.push_back(bpe->Find(absl::StrFormat("<0x%02X>", byte)).value_or(-1));
    }
  }
  return bpe;
}

absl::Status Bpe::ReadVocabulary(const JsonView& json) {
  QD_ASSIGN_OR_RETURN(JsonView vocab, json.Member("vocab"));
  if (!vocab.value().is_object()) {
    return vocab.Error(absl::StrCat("must be an object, is ", vocab.value().type_name()));
  }
  ids_.reserve(vocab.value().size());
  by_id_.reserve(vocab.value().size());
  for (const auto& [token, value] : vocab.value().items()) {
    QD_ASSIGN_OR_RETURN(
        int64_t id, JsonView(&value, absl::StrCat(vocab.path(), "[\"", token.substr(0, 100), "\"]"))
                        .Integer(0, kIdLimit - 1));
    tokens_.push_back(token);
    auto [other, is_new] = by_id_.emplace(id, tokens_.back());
    if (!is_new) {
      return vocab.Error(absl::StrCat("\"", token.substr(0, 100), "\" and \"",
                                      other->second.substr(0, 100), "\" have the same id ", id));
    }
    ids_.emplace(tokens_.back(), id);
    id_max_ = std::max<int32_t>(id_max_, id);
  }
  return absl::OkStatus();
}

absl::Status Bpe::ReadMerges(const JsonView& json) {
  QD_ASSIGN_OR_RETURN(JsonView merges, json.Member("merges"));
  QD_ASSIGN_OR_RETURN(std::vector<JsonView> elements, merges.Elements());
  if (elements.size() > static_cast<size_t>(kIdLimit)) {
    return merges.Error(absl::StrCat(elements.size(), " merges: at most ", kIdLimit));
  }
  merges_.reserve(elements.size());
  int32_t rank = 0;
  for (const JsonView& element : elements) {
    const nlohmann::json& value = element.value();
    std::string left, right;
    if (value.is_string()) {
      const std::string& text = value.get_ref<const std::string&>();
      if (absl::StartsWith(text, "#version")) continue;
      const size_t blank = text.find(' ');
      if (blank == std::string::npos || text.find(' ', blank + 1) != std::string::npos) {
        return element.Error("must be two tokens with one blank between them");
      }
      left = text.substr(0, blank);
      right = text.substr(blank + 1);
    } else if (value.is_array() && value.size() == 2 && value[0].is_string() &&
               value[1].is_string()) {
      left = value[0].get<std::string>();
      right = value[1].get<std::string>();
    } else {
      return element.Error("must be a string or an array of two strings");
    }
    QD_RETURN_IF_ERROR(AddMerge(left, right, rank), element.path());
    ++rank;
  }
  return absl::OkStatus();
}

absl::Status Bpe::AddMerge(absl::string_view left, absl::string_view right, int32_t rank) {
  const auto require = [this](absl::string_view token) -> absl::StatusOr<int32_t> {
    const std::optional<int32_t> id = Find(token);
    if (id) return *id;
    return absl::InvalidArgumentError(
        absl::StrCat("token \"", token.substr(0, 100), "\" is not in model.vocab"));
  };
  QD_ASSIGN_OR_RETURN(int32_t left_id, require(left));
  QD_ASSIGN_OR_RETURN(int32_t right_id, require(right));
  if (right.size() < prefix_.size()) {
    return absl::InvalidArgumentError("the second token is shorter than the subword prefix");
  }
  QD_ASSIGN_OR_RETURN(int32_t id, require(absl::StrCat(left, right.substr(prefix_.size()))));
  merges_[PairKey(left_id, right_id)] = {rank, id};
  return absl::OkStatus();
}

std::optional<int32_t> Bpe::Find(absl::string_view token) const {
  auto found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

absl::string_view Bpe::Token(int32_t id) const {
  auto found = by_id_.find(id);
  return found == by_id_.end() ? absl::string_view() : found->second;
}

const Bpe::Merge* Bpe::FindMerge(int32_t left, int32_t right) const {
  auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

bool Bpe::AppendByteTokens(absl::string_view character, std::vector<Symbol>* symbols) const {
  for (unsigned char byte : character) {
    if (byte_ids_[byte] < 0) return false;
  }
  for (unsigned char byte : character) symbols->push_back({.id = byte_ids_[byte]});
  return true;
}

std::vector<Bpe::Symbol> Bpe::InitialSymbols(absl::string_view word) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  // An unknown token waits for a known one, so that neighbours can be fused. As in the reference,
  // byte tokens overtake it.
  bool unknown_waits = false;
  std::string decorated;
  for (size_t position = 0; position < word.size();) {
    const size_t at = position;
    DecodeUtf8(word, &position);
    absl::string_view character = word.substr(at, position - at);
    const bool prefixed = at > 0 && !prefix_.empty();
    const bool suffixed = position == word.size() && !suffix_.empty();
    if (prefixed || suffixed) {
      decorated = absl::StrCat(prefixed ? prefix_ : "", character, suffixed ? suffix_ : "");
      character = decorated;
    }
    const std::optional<int32_t> id = Find(character);
    if (id) {
      if (unknown_waits) symbols.push_back({.id = unknown_id_});
      unknown_waits = false;
      symbols.push_back({.id = *id});
    } else if (byte_fallback_ && AppendByteTokens(character, &symbols)) {
      continue;
    } else if (unknown_id_ >= 0) {
      if (unknown_waits && !fuse_unknown_) symbols.push_back({.id = unknown_id_});
      unknown_waits = true;
    }
  }
  if (unknown_waits) symbols.push_back({.id = unknown_id_});
  const int32_t count = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i < count; ++i) {
    symbols[i].previous = i - 1;
    symbols[i].next = i + 1 < count ? i + 1 : -1;
  }
  return symbols;
}

void Bpe::Encode(absl::string_view word, std::vector<int32_t>* ids) const {
  if (word.empty()) return;
  if (ignore_merges_) {
    if (const std::optional<int32_t> whole = Find(word)) {
      ids->push_back(*whole);
      return;
    }
  }
  std::vector<Symbol> symbols = InitialSymbols(word);
  std::vector<Candidate> storage;
  storage.reserve(symbols.size());
  std::priority_queue<Candidate> due(std::less<Candidate>(), std::move(storage));
  const auto consider = [&](int32_t position) {
    if (position < 0 || symbols[position].next < 0) return;
    if (const Merge* merge = FindMerge(symbols[position].id, symbols[symbols[position].next].id)) {
      due.push({merge->rank, position, merge->id});
    }
  };
  for (int32_t i = 0; i < static_cast<int32_t>(symbols.size()); ++i) consider(i);
  while (!due.empty()) {
    const Candidate top = due.top();
    due.pop();
    Symbol& left = symbols[top.position];
    if (left.removed || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    // The neighbours may have changed since the candidate was queued.
    const Merge* merge = FindMerge(left.id, right.id);
    if (merge == nullptr || merge->id != top.id) continue;
    left.id = merge->id;
    left.next = right.next;
    right.removed = true;
    if (left.next >= 0) symbols[left.next].previous = top.position;
    consider(left.previous);
    consider(top.position);
  }
  for (const Symbol& symbol : symbols) {
    if (!symbol.removed) ids->push_back(symbol.id);
  }
}

}  // namespace quantd
