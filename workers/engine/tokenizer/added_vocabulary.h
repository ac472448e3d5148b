// The "added_tokens" of a tokenizer.json: tokens found in the text before the model sees it. Some
// are looked for in the raw text, the others in the normalized text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/tokenizer/bpe.h"
#include "workers/engine/tokenizer/normalizer.h"

namespace quantd {

// Immutable and thread-safe.
class AddedVocabulary {
 public:
  // `normalizer` may be null.
  static absl::StatusOr<AddedVocabulary> FromJson(const JsonView& json, const Bpe& model,
                                                  const Normalizer* normalizer);

  // Cuts `text` at the added tokens and normalizes what lies between them.
  absl::StatusOr<std::vector<Piece>> Split(absl::string_view text,
                                           const Normalizer* normalizer) const;

  std::optional<int32_t> Find(absl::string_view token) const;
  // Null when the id is not an added token's. Tokens that are looked for in normalized text are
  // told as normalized, so that the decoder, which undoes the normalizer's work, finds what it
  // expects.
  const std::string* Token(int32_t id) const;
  bool IsSpecial(int32_t id) const;
  int32_t id_max() const { return id_max_; }

 private:
  struct Entry {
    std::string content;
    std::string told;  // The content, normalized for a normalized token.
    int32_t id = -1;
    bool single_word = false;
    bool lstrip = false;
    bool rstrip = false;
    bool normalized = false;
    bool special = false;
  };
  // Finds, from left to right, the longest of several strings: a trie of bytes.
  class Matcher {
   public:
    void Add(absl::string_view text, int32_t entry);
    // The entry of the longest string that `text` has at `at`, or -1; `*size` is that string's.
    int32_t LongestAt(absl::string_view text, size_t at, size_t* size) const;
    bool empty() const { return nodes_.size() == 1; }

   private:
    struct Node {
      absl::flat_hash_map<char, int32_t> next;
      int32_t entry = -1;
    };
    std::vector<Node> nodes_ = std::vector<Node>(1);
    bool starts_[256] = {};
  };

  static absl::StatusOr<Entry> ReadEntry(const JsonView& json, int32_t* stated_id);
  void SplitAt(const Matcher& matcher, Piece piece, std::vector<Piece>* out) const;

  std::vector<Entry> entries_;
  absl::flat_hash_map<std::string, int32_t> by_content_;  // Index into entries_.
  absl::flat_hash_map<int32_t, int32_t> by_id_;
  Matcher raw_;
  Matcher normalized_;
  int32_t id_max_ = -1;
};

}  // namespace quantd
