// Text to token ids and back, read from a model's tokenizer.json and exact against the Hugging Face
// `tokenizers` library, because one different id changes every metric that follows. BPE models
// only (byte-level, and sentencepiece-style with byte fallback); whatever else a file asks for is
// refused by name rather than approximated.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quantd {

struct EncodeOptions {
  // Whether the post-processor of the file adds what it adds (a BOS token, mostly).
  bool add_special_tokens = true;
};

struct DecodeOptions {
  // Leaves out tokens that the file marks special, as generation output is printed.
  bool skip_special_tokens = false;
};

// Immutable after Load, but for a bounded cache of words with a lock of its own: all methods are
// thread-safe.
class Tokenizer {
 public:
  // Reads `model_folder`/tokenizer.json, and bos and eos from tokenizer_config.json, config.json
  // and generation_config.json where they exist. NotFound without a tokenizer.json;
  // InvalidArgument, naming the file and the JSON path, for content that is damaged;
  // Unimplemented for a component that is not supported.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& model_folder);
  // The same from the text of a tokenizer.json; `name` stands for the file in errors.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(absl::string_view json,
                                                          absl::string_view name);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // InvalidArgument with the byte offset for invalid UTF-8; ResourceExhausted for a text beyond
  // kTextLimitBytes or on which a regex of the file backtracks without end. Truncation and padding
  // set in the file are not applied.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view utf8,
                                              const EncodeOptions& options = {}) const;
  // Always valid UTF-8: bytes that form no character become U+FFFD. Ids without a token are left
  // out.
  std::string Decode(absl::Span<const int32_t> ids, const DecodeOptions& options = {}) const;

  // One more than the largest id, added tokens included. A model's embedding may have more rows.
  int32_t vocab_size() const;
  // What the model's configuration files say; eos_ids holds every one of them (several are common),
  // eos_id the first.
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  const std::vector<int32_t>& eos_ids() const;
  // The id of the token with exactly this content (in the file's own alphabet, "Ġthe" for " the").
  std::optional<int32_t> TokenToId(absl::string_view token) const;
  // The token's content in the file's own alphabet; empty when there is no such id.
  std::string IdToToken(int32_t id) const;
  // SHA-256 of tokenizer.json: names the tokenizer in records.
  const std::string& digest() const;

  static constexpr int64_t kTextLimitBytes = int64_t{256} << 20;

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quantd
