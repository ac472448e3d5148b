// One class a decoder, and the table from type names to their makers.
#include "workers/engine/tokenizer/decoder.h"

#include <algorithm>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/tokenizer/byte_alphabet.h"
#include "workers/engine/tokenizer/component.h"
#include "workers/engine/tokenizer/pattern.h"
#include "workers/engine/tokenizer/pattern_json.h"

namespace quantd {
namespace {

using Tokens = std::vector<std::string>;
using Made = MadeComponent<TokenDecoder>;
Made Make(const JsonView& json, int depth);

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";

// Cuts `text` into characters.
std::vector<absl::string_view> Characters(absl::string_view text) {
  std::vector<absl::string_view> characters;
  for (size_t position = 0; position < text.size();) {
    const size_t at = position;
    DecodeUtf8(text, &position);
    characters.push_back(text.substr(at, position - at));
  }
  return characters;
}

class ByteLevel : public TokenDecoder {
 public:
  void Apply(Tokens* tokens) const override {
    std::string bytes;
    for (const std::string& token : *tokens) {
      const size_t before = bytes.size();
      for (size_t position = 0; position < token.size();) {
        const std::optional<char> byte = AlphabetToByte(DecodeUtf8(token, &position));
        if (!byte) {
          // A token outside the alphabet (an added one) stands for itself.
          bytes.resize(before);
          bytes += token;
          break;
        }
        bytes += *byte;
      }
    }
    *tokens = {LossyUtf8(bytes)};
  }
};

// "<0x0A>" to its byte; nullopt for any other token.
std::optional<char> ByteToken(absl::string_view token) {
  if (token.size() != 6 || !absl::StartsWith(token, "<0x") || token[5] != '>' ||
      !absl::ascii_isxdigit(token[3]) || !absl::ascii_isxdigit(token[4])) {
    return std::nullopt;
  }
  int byte = 0;
  if (!absl::SimpleHexAtoi(token.substr(3, 2), &byte)) return std::nullopt;
  return static_cast<char>(byte);
}

class ByteFallback : public TokenDecoder {
 public:
  void Apply(Tokens* tokens) const override {
    Tokens out;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (IsValidUtf8(bytes)) {
        out.push_back(bytes);
      } else {
        out.insert(out.end(), bytes.size(), std::string(kReplacement));
      }
      bytes.clear();
    };
    for (std::string& token : *tokens) {
      if (const std::optional<char> byte = ByteToken(token)) {
        bytes += *byte;
      } else {
        flush();
        out.push_back(std::move(token));
      }
    }
    flush();
    *tokens = std::move(out);
  }
};

class Fuse : public TokenDecoder {
 public:
  void Apply(Tokens* tokens) const override { *tokens = {absl::StrJoin(*tokens, "")}; }
};

class Strip : public TokenDecoder {
 public:
  struct Counts {
    int64_t start = 0;
    int64_t stop = 0;
  };
  Strip(std::string content, Counts counts) : content_(std::move(content)), counts_(counts) {}

  void Apply(Tokens* tokens) const override {
    for (std::string& token : *tokens) {
      absl::string_view rest = token;
      for (int64_t i = 0; i < counts_.start && absl::StartsWith(rest, content_); ++i) {
        rest.remove_prefix(content_.size());
      }
      for (int64_t i = 0; i < counts_.stop && absl::EndsWith(rest, content_); ++i) {
        rest.remove_suffix(content_.size());
      }
      token = std::string(rest);
    }
  }

 private:
  const std::string content_;
  const Counts counts_;
};

class Replace : public TokenDecoder {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  void Apply(Tokens* tokens) const override {
    for (std::string& token : *tokens) {
      const auto spans = pattern_.FindAll(token);
      if (!spans.ok()) continue;  // A regex gave up on the token: it stays as it is.
      std::string out;
      for (const PatternSpan& span : *spans) {
        if (span.matched) {
          out += content_;
        } else {
          out.append(token, span.begin, span.end - span.begin);
        }
      }
      token = std::move(out);
    }
  }

 private:
  const Pattern pattern_;
  const std::string content_;
};

class Metaspace : public TokenDecoder {
 public:
  Metaspace(std::string replacement, bool strip_first)
      : replacement_(std::move(replacement)), strip_first_(strip_first) {}

  void Apply(Tokens* tokens) const override {
    for (size_t i = 0; i < tokens->size(); ++i) {
      const absl::string_view blank = i == 0 && strip_first_ ? "" : " ";
      absl::StrReplaceAll({{replacement_, blank}}, &(*tokens)[i]);
    }
  }

 private:
  const std::string replacement_;
  const bool strip_first_;
};

class SuffixDecoder : public TokenDecoder {
 public:
  explicit SuffixDecoder(std::string suffix) : suffix_(std::move(suffix)) {}
  void Apply(Tokens* tokens) const override {
    if (suffix_.empty()) return;
    for (size_t i = 0; i < tokens->size(); ++i) {
      const absl::string_view blank = i + 1 == tokens->size() ? "" : " ";
      absl::StrReplaceAll({{suffix_, blank}}, &(*tokens)[i]);
    }
  }

 private:
  const std::string suffix_;
};

class Sequence : public TokenDecoder {
 public:
  explicit Sequence(std::vector<std::unique_ptr<TokenDecoder>> parts) : parts_(std::move(parts)) {}
  void Apply(Tokens* tokens) const override {
    for (const auto& part : parts_) part->Apply(tokens);
  }

 private:
  const std::vector<std::unique_ptr<TokenDecoder>> parts_;
};

template <typename Type>
Made MakePlain(const JsonView&, int) {
  return std::make_unique<Type>();
}

Made MakeStrip(const JsonView& json, int) {
  constexpr int64_t kCountLimit = 1'000'000;
  QD_ASSIGN_OR_RETURN(std::string content, json.StringOr("content", " "));
  if (Characters(content).size() != 1) return json.Error("content must be one character");
  Strip::Counts counts;
  QD_ASSIGN_OR_RETURN(counts.start, json.IntegerOr("start", 0, 0, kCountLimit));
  QD_ASSIGN_OR_RETURN(counts.stop, json.IntegerOr("stop", 0, 0, kCountLimit));
  return std::make_unique<Strip>(std::move(content), counts);
}

Made MakeReplace(const JsonView& json, int) {
  QD_ASSIGN_OR_RETURN(Pattern pattern, PatternFromJson(json));
  QD_ASSIGN_OR_RETURN(JsonView content, json.Member("content"));
  QD_ASSIGN_OR_RETURN(std::string text, content.String());
  return std::make_unique<Replace>(std::move(pattern), std::move(text));
}

Made MakeMetaspace(const JsonView& json, int) {
  QD_ASSIGN_OR_RETURN(std::string replacement, json.StringOr("replacement", "\u2581"));
  QD_ASSIGN_OR_RETURN(bool add_prefix_space, json.BoolOr("add_prefix_space", true));
  QD_ASSIGN_OR_RETURN(std::string scheme,
                      json.StringOr("prepend_scheme", add_prefix_space ? "always" : "never"));
  if (Characters(replacement).size() != 1) {
    return json.Error("replacement must be one character");
  }
  return std::make_unique<Metaspace>(std::move(replacement), scheme != "never");
}

Made MakeSuffix(const JsonView& json, int) {
  QD_ASSIGN_OR_RETURN(std::string suffix, json.StringOr("suffix", "</w>"));
  return std::make_unique<SuffixDecoder>(std::move(suffix));
}

Made MakeSequence(const JsonView& json, int depth) {
  QD_ASSIGN_OR_RETURN(auto parts, MakeComponentList<TokenDecoder>(Make, json, "decoders", depth));
  return std::make_unique<Sequence>(std::move(parts));
}

constexpr ComponentKind<TokenDecoder> kKinds[] = {
    {"ByteLevel", MakePlain<ByteLevel>},
    {"ByteFallback", MakePlain<ByteFallback>},
    {"Fuse", MakePlain<Fuse>},
    {"Strip", MakeStrip},
    {"Replace", MakeReplace},
    {"Metaspace", MakeMetaspace},
    {"BPEDecoder", MakeSuffix},
    {"Sequence", MakeSequence},
};

Made Make(const JsonView& json, int depth) { return MakeComponent(kKinds, json, depth); }

// How many bytes of a broken character at `at` belong together: as many as begin a valid one.
size_t BrokenSize(absl::string_view bytes, size_t at) {
  const auto byte = [&](size_t i) -> unsigned {
    return at + i < bytes.size() ? static_cast<unsigned char>(bytes[at + i]) : 0;
  };
  const unsigned lead = byte(0);
  const int wanted = lead >= 0xC2 && lead <= 0xDF ? 2 : (lead >> 4) == 0xE ? 3 : 0;
  const int length = lead >= 0xF0 && lead <= 0xF4 ? 4 : wanted;
  if (length == 0) return 1;
  unsigned low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  size_t size = 1;
  while (size < static_cast<size_t>(length) && byte(size) >= low && byte(size) <= high) {
    low = 0x80;
    high = 0xBF;
    ++size;
  }
  return size;
}

}  // namespace

std::string LossyUtf8(absl::string_view bytes) {
  if (IsValidUtf8(bytes)) return std::string(bytes);
  std::string out;
  for (size_t position = 0; position < bytes.size();) {
    const size_t at = position;
    if (DecodeUtf8(bytes, &position) >= 0) {
      out.append(bytes.data() + at, position - at);
    } else {
      absl::StrAppend(&out, kReplacement);
      position = at + BrokenSize(bytes, at);
    }
  }
  return out;
}

absl::StatusOr<std::unique_ptr<TokenDecoder>> TokenDecoder::FromJson(const JsonView& json) {
  if (json.IsNull()) return nullptr;
  return Make(json, 0);
}

}  // namespace quantd
