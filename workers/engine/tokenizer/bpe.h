// The "model" of a tokenizer.json: byte-pair encoding. From a word to token ids by merging, again
// and again, the neighbours whose merge was learned first. Dropout is for training and not applied.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/tokenizer/json_view.h"

namespace quantd {

// Immutable and thread-safe.
class Bpe {
 public:
  // Larger than any published vocabulary (262,144); bounds what a hostile file can allocate.
  static constexpr int64_t kIdLimit = 1 << 22;

  static absl::StatusOr<std::unique_ptr<Bpe>> FromJson(const JsonView& json);

  // Appends the ids of one word of valid UTF-8. Characters that are not in the vocabulary become
  // byte tokens or the unknown token where the model has them, and vanish otherwise.
  void Encode(absl::string_view word, std::vector<int32_t>* ids) const;

  std::optional<int32_t> Find(absl::string_view token) const;
  // Empty when there is no such id.
  absl::string_view Token(int32_t id) const;
  // How many tokens; ids may have holes.
  int32_t size() const { return static_cast<int32_t>(ids_.size()); }
  int32_t id_max() const { return id_max_; }

 private:
  struct Merge {
    int32_t rank;
    int32_t id;
  };
  struct Symbol;

  Bpe() = default;
  absl::Status ReadVocabulary(const JsonView& json);
  absl::Status ReadMerges(const JsonView& json);
  absl::Status AddMerge(absl::string_view left, absl::string_view right, int32_t rank);
  const Merge* FindMerge(int32_t left, int32_t right) const;
  std::vector<Symbol> InitialSymbols(absl::string_view word) const;
  bool AppendByteTokens(absl::string_view character, std::vector<Symbol>* symbols) const;

  std::deque<std::string> tokens_;  // Owns what the two maps point at.
  absl::flat_hash_map<absl::string_view, int32_t> ids_;
  absl::flat_hash_map<int32_t, absl::string_view> by_id_;
  absl::flat_hash_map<uint64_t, Merge> merges_;  // Both ids, left in the upper half.
  std::vector<int32_t> byte_ids_;                // Of "<0x00>" and so on; -1 where missing.
  std::string prefix_;
  std::string suffix_;
  int32_t id_max_ = -1;
  int32_t unknown_id_ = -1;
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

}  // namespace quantd
