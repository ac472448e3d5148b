// How text is cut into words before BPE, by the names that GGUF has for the rules, and the kinds of
// tokens that it knows.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/string_view.h"

namespace quantd::engine {

// tokenizer.ggml.token_type.
constexpr int64_t kGgufNormal = 1;
constexpr int64_t kGgufUnknown = 2;
constexpr int64_t kGgufControl = 3;
constexpr int64_t kGgufUserDefined = 4;
constexpr int64_t kGgufUnused = 5;
constexpr int64_t kGgufByte = 6;

// "<0x0A>" and its kin.
bool IsByteToken(absl::string_view token);

// tokenizer.ggml.pre for a tokenizer.json; empty when no name says what it does.
std::string GgufSplitOf(const nlohmann::json& tokenizer);
// Sets "normalizer" and "pre_tokenizer" to what the name says; false for an unknown name.
bool SetGgufSplit(absl::string_view name, nlohmann::json* tokenizer);
// "llama-bpe, qwen2, ..."
std::string GgufSplitNames();

// Sentencepiece style: whether a space is put before the text.
bool PrependsSpace(const nlohmann::json& tokenizer);

}  // namespace quantd::engine
