// Matching follows the reference in every oddity: ids follow from the order of the list, a match
// dropped for single_word still hides what it covers, and rstrip may reach over the next match.
#include "workers/engine/tokenizer/added_vocabulary.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/tokenizer/unicode.h"

namespace quantd {
namespace {

// Far above any published list (some thousands); bounds memory.
constexpr size_t kAddedTokensLimit = 1 << 20;
// The trie takes a node a byte.
constexpr size_t kContentLimitBytes = 4096;

// Where the character that ends at `end` begins.
size_t PreviousCharacter(absl::string_view text, size_t end) {
  do --end;
  while (end > 0 && (text[end] & 0xC0) == 0x80);
  return end;
}

bool WordBefore(absl::string_view text, size_t end) {
  if (end == 0) return false;
  size_t position = PreviousCharacter(text, end);
  return IsWordCharacter(DecodeUtf8(text, &position));
}

bool WordAfter(absl::string_view text, size_t begin) {
  return begin < text.size() && IsWordCharacter(DecodeUtf8(text, &begin));
}

size_t SkipBlanksLeft(absl::string_view text, size_t end) {
  while (end > 0) {
    const size_t begin = PreviousCharacter(text, end);
    size_t position = begin;
    if (!IsWhitespace(DecodeUtf8(text, &position))) break;
    end = begin;
  }
  return end;
}

size_t SkipBlanksRight(absl::string_view text, size_t begin) {
  while (begin < text.size()) {
    size_t position = begin;
    if (!IsWhitespace(DecodeUtf8(text, &position))) break;
    begin = position;
  }
  return begin;
}

}  // namespace

void AddedVocabulary::Matcher::Add(absl::string_view text, int32_t entry) {
  if (text.empty()) return;
  starts_[static_cast<unsigned char>(text[0])] = true;
  int32_t node = 0;
  for (char byte : text) {
    auto [next, is_new] = nodes_[node].next.try_emplace(byte, nodes_.size());
    node = next->second;
    if (is_new) nodes_.emplace_back();
  }
  // Of two with the same text the first stays.
  if (nodes_[node].entry < 0) nodes_[node].entry = entry;
}

int32_t AddedVocabulary::Matcher::LongestAt(absl::string_view text, size_t at, size_t* size) const {
  if (!starts_[static_cast<unsigned char>(text[at])]) return -1;
  int32_t found = -1;
  int32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    auto next = nodes_[node].next.find(text[i]);
    if (next == nodes_[node].next.end()) break;
    node = next->second;
    if (nodes_[node].entry >= 0) {
      found = nodes_[node].entry;
      *size = i + 1 - at;
    }
  }
  return found;
}

absl::StatusOr<AddedVocabulary::Entry> AddedVocabulary::ReadEntry(const JsonView& json,
                                                                  int32_t* stated_id) {
  Entry entry;
  QD_ASSIGN_OR_RETURN(JsonView content, json.Member("content"));
  QD_ASSIGN_OR_RETURN(entry.content, content.String());
  if (entry.content.size() > kContentLimitBytes) {
    return content.Error(
        absl::StrCat(entry.content.size(), " bytes: at most ", kContentLimitBytes));
  }
  QD_ASSIGN_OR_RETURN(JsonView id, json.Member("id"));
  QD_ASSIGN_OR_RETURN(*stated_id, id.Integer(0, Bpe::kIdLimit - 1));
  QD_ASSIGN_OR_RETURN(entry.single_word, json.BoolOr("single_word", false));
  QD_ASSIGN_OR_RETURN(entry.lstrip, json.BoolOr("lstrip", false));
  QD_ASSIGN_OR_RETURN(entry.rstrip, json.BoolOr("rstrip", false));
  QD_ASSIGN_OR_RETURN(entry.special, json.BoolOr("special", false));
  QD_ASSIGN_OR_RETURN(entry.normalized, json.BoolOr("normalized", !entry.special));
  return entry;
}

absl::StatusOr<AddedVocabulary> AddedVocabulary::FromJson(const JsonView& json, const Bpe& model,
                                                          const Normalizer* normalizer) {
  AddedVocabulary added;
  if (json.IsNull()) return added;
  QD_ASSIGN_OR_RETURN(std::vector<JsonView> elements, json.Elements());
  if (elements.size() > kAddedTokensLimit) {
    return json.Error(absl::StrCat(elements.size(), " tokens: at most ", kAddedTokensLimit));
  }
  for (const JsonView& element : elements) {
    int32_t stated_id = -1;
    QD_ASSIGN_OR_RETURN(Entry entry, ReadEntry(element, &stated_id));
    if (entry.content.empty() || added.by_content_.contains(entry.content)) continue;
    const std::optional<int32_t> in_model = model.Find(entry.content);
    entry.id = in_model ? *in_model : std::max(added.id_max_ + 1, model.size());
    if (entry.id != stated_id) {
      LogWarning("an added token's id is not the one that its file states",
                 {{"token", entry.content}, {"stated", stated_id}, {"used", entry.id}});
    }
    const int32_t index = static_cast<int32_t>(added.entries_.size());
    added.by_content_[entry.content] = index;
    added.by_id_[entry.id] = index;
    added.id_max_ = std::max(added.id_max_, entry.id);
    added.entries_.push_back(std::move(entry));
  }
  // Special tokens win over others with the same text.
  for (bool special : {true, false}) {
    for (size_t i = 0; i < added.entries_.size(); ++i) {
      Entry& entry = added.entries_[i];
      if (entry.special != special) continue;
      if (!entry.normalized) {
        entry.told = entry.content;
        added.raw_.Add(entry.content, i);
        continue;
      }
      Piece content{.text = entry.content};
      if (normalizer != nullptr) QD_RETURN_IF_ERROR(normalizer->Apply(&content));
      added.normalized_.Add(content.text, i);
      entry.told = std::move(content.text);
    }
  }
  return added;
}

void AddedVocabulary::SplitAt(const Matcher& matcher, Piece piece, std::vector<Piece>* out) const {
  const absl::string_view text = piece.text;
  const auto emit = [&](size_t begin, size_t end, int32_t id) {
    if (begin >= end) return;
    out->push_back({.text = std::string(text.substr(begin, end - begin)),
                    .at_start = piece.at_start && begin == 0,
                    .added_id = id});
  };
  size_t done = 0;
  for (size_t at = 0; at < text.size() && !matcher.empty();) {
    size_t size = 0;
    const int32_t index = matcher.LongestAt(text, at, &size);
    if (index < 0) {
      ++at;
      continue;
    }
    const Entry& entry = entries_[index];
    size_t begin = at;
    size_t end = at + size;
    at = end;
    if (entry.single_word && (WordBefore(text, begin) || WordAfter(text, end))) continue;
    if (entry.lstrip) begin = std::max(SkipBlanksLeft(text, begin), done);
    if (entry.rstrip) end = SkipBlanksRight(text, end);
    emit(done, begin, -1);
    emit(begin, end, entry.id);
    done = end;
  }
  if (done == 0) {
    if (!piece.text.empty()) out->push_back(std::move(piece));
  } else {
    emit(done, text.size(), -1);
  }
}

absl::StatusOr<std::vector<Piece>> AddedVocabulary::Split(absl::string_view text,
                                                          const Normalizer* normalizer) const {
  std::vector<Piece> raw;
  SplitAt(raw_, {.text = std::string(text), .at_start = true}, &raw);
  std::vector<Piece> pieces;
  for (Piece& piece : raw) {
    if (piece.added_id >= 0) {
      pieces.push_back(std::move(piece));
      continue;
    }
    if (normalizer != nullptr) QD_RETURN_IF_ERROR(normalizer->Apply(&piece));
    SplitAt(normalized_, std::move(piece), &pieces);
  }
  return pieces;
}

std::optional<int32_t> AddedVocabulary::Find(absl::string_view token) const {
  auto found = by_content_.find(token);
  if (found == by_content_.end()) return std::nullopt;
  return entries_[found->second].id;
}

const std::string* AddedVocabulary::Token(int32_t id) const {
  auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &entries_[found->second].told;
}

bool AddedVocabulary::IsSpecial(int32_t id) const {
  const std::string* told = Token(id);
  if (told == nullptr) return false;
  // The reference asks by text: a special token that the normalizer rewrites is not recognized.
  auto found = by_content_.find(*told);
  return found != by_content_.end() && entries_[found->second].special;
}

}  // namespace quantd
