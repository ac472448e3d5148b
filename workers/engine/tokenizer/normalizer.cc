// One class a normalizer, and the table from type names to their makers.
#include "workers/engine/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/tokenizer/byte_alphabet.h"
#include "workers/engine/tokenizer/component.h"
#include "workers/engine/tokenizer/pattern.h"
#include "workers/engine/tokenizer/pattern_json.h"
#include "workers/engine/tokenizer/unicode.h"

namespace quantd {
namespace {

using Made = MadeComponent<Normalizer>;
Made Make(const JsonView& json, int depth);

// A Hangul filler that never composes; utf8proc 2.8 takes it for an empty final consonant.
constexpr int32_t kHangulFinalBase = 0x11A7;

// NFC, NFD, NFKC, NFKD. Characters that the reference's older tables do not know change nothing and
// combine with nothing, so the text is normalized in the stretches between them.
class UnicodeForm : public Normalizer {
 public:
  explicit UnicodeForm(int options) : options_(options) {}

  absl::Status Apply(Piece* piece) const override {
    const std::string& text = piece->text;
    if (std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; })) {
      return absl::OkStatus();
    }
    std::string out;
    size_t begin = 0;
    for (size_t position = 0; position < text.size();) {
      const size_t at = position;
      const int32_t c = DecodeUtf8(text, &position);
      if (!IsUnknownToNormalizer(c) && c != kHangulFinalBase) continue;
      QD_RETURN_IF_ERROR(AppendForm(absl::string_view(text).substr(begin, at - begin), &out));
      out.append(text, at, position - at);
      begin = position;
    }
    QD_RETURN_IF_ERROR(AppendForm(absl::string_view(text).substr(begin), &out));
    piece->text = std::move(out);
    return absl::OkStatus();
  }

 private:
  absl::Status AppendForm(absl::string_view text, std::string* out) const {
    if (text.empty()) return absl::OkStatus();
    utf8proc_uint8_t* form = nullptr;
    const utf8proc_ssize_t size =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), text.size(), &form,
                     static_cast<utf8proc_option_t>(options_));
    if (size < 0) {
      return absl::InternalError(absl::StrCat("normalizing: ", utf8proc_errmsg(size)));
    }
    out->append(reinterpret_cast<const char*>(form), size);
    std::free(form);
    return absl::OkStatus();
  }

  const int options_;
};

class Lowercase : public Normalizer {
 public:
  absl::Status Apply(Piece* piece) const override {
    std::string out;
    for (size_t position = 0; position < piece->text.size();) {
      AppendLowercase(DecodeUtf8(piece->text, &position), &out);
    }
    piece->text = std::move(out);
    return absl::OkStatus();
  }
};

class StripAccents : public Normalizer {
 public:
  absl::Status Apply(Piece* piece) const override {
    std::string out;
    for (size_t position = 0; position < piece->text.size();) {
      const int32_t c = DecodeUtf8(piece->text, &position);
      if (!IsCombiningMark(c)) {
        AppendUtf8(c, &out);
      } else if (out.empty()) {
        piece->at_start = false;
      }
    }
    piece->text = std::move(out);
    return absl::OkStatus();
  }
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  absl::Status Apply(Piece* piece) const override {
    if (!piece->text.empty()) piece->text.insert(0, prefix_);
    return absl::OkStatus();
  }

 private:
  const std::string prefix_;
};

class ByteLevel : public Normalizer {
 public:
  absl::Status Apply(Piece* piece) const override {
    piece->text = BytesToAlphabet(piece->text);
    return absl::OkStatus();
  }
};

class Strip : public Normalizer {
 public:
  struct Sides {
    bool left = true;
    bool right = true;
  };
  explicit Strip(Sides sides) : sides_(sides) {}

  absl::Status Apply(Piece* piece) const override {
    const std::string& text = piece->text;
    size_t first = std::string::npos;  // First and one past the last byte that is not blank.
    size_t last = 0;
    for (size_t position = 0; position < text.size();) {
      const size_t at = position;
      if (IsWhitespace(DecodeUtf8(text, &position))) continue;
      first = std::min(first, at);
      last = position;
    }
    if (first == std::string::npos) {
      if (sides_.left || sides_.right) piece->text.clear();
      return absl::OkStatus();
    }
    const size_t begin = sides_.left ? first : 0;
    const size_t end = sides_.right ? last : text.size();
    if (begin > 0) piece->at_start = false;
    piece->text = text.substr(begin, end - begin);
    return absl::OkStatus();
  }

 private:
  const Sides sides_;
};

class Replace : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  absl::Status Apply(Piece* piece) const override {
    QD_ASSIGN_OR_RETURN(auto spans, pattern_.FindAll(piece->text));
    if (content_.empty() && spans.front().matched) piece->at_start = false;
    std::string out;
    for (const PatternSpan& span : spans) {
      if (span.matched) {
        out += content_;
      } else {
        out.append(piece->text, span.begin, span.end - span.begin);
      }
    }
    piece->text = std::move(out);
    return absl::OkStatus();
  }

 private:
  const Pattern pattern_;
  const std::string content_;
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Normalizer>> parts) : parts_(std::move(parts)) {}
  absl::Status Apply(Piece* piece) const override {
    for (const auto& part : parts_) QD_RETURN_IF_ERROR(part->Apply(piece));
    return absl::OkStatus();
  }

 private:
  const std::vector<std::unique_ptr<Normalizer>> parts_;
};

template <int options>
Made MakeForm(const JsonView&, int) {
  return std::make_unique<UnicodeForm>(options);
}

template <typename Type>
Made MakePlain(const JsonView&, int) {
  return std::make_unique<Type>();
}

Made MakePrepend(const JsonView& json, int) {
  QD_ASSIGN_OR_RETURN(JsonView prefix, json.Member("prepend"));
  QD_ASSIGN_OR_RETURN(std::string text, prefix.String());
  return std::make_unique<Prepend>(std::move(text));
}

Made MakeStrip(const JsonView& json, int) {
  Strip::Sides sides;
  QD_ASSIGN_OR_RETURN(sides.left, json.BoolOr("strip_left", true));
  QD_ASSIGN_OR_RETURN(sides.right, json.BoolOr("strip_right", true));
  return std::make_unique<Strip>(sides);
}

Made MakeReplace(const JsonView& json, int) {
  QD_ASSIGN_OR_RETURN(Pattern pattern, PatternFromJson(json));
  QD_ASSIGN_OR_RETURN(JsonView content, json.Member("content"));
  QD_ASSIGN_OR_RETURN(std::string text, content.String());
  return std::make_unique<Replace>(std::move(pattern), std::move(text));
}

Made MakeSequence(const JsonView& json, int depth) {
  QD_ASSIGN_OR_RETURN(auto parts, MakeComponentList<Normalizer>(Make, json, "normalizers", depth));
  return std::make_unique<Sequence>(std::move(parts));
}

constexpr int kCompose = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
constexpr int kDecompose = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;

constexpr ComponentKind<Normalizer> kKinds[] = {
    {"NFC", MakeForm<kCompose>},
    {"NFD", MakeForm<kDecompose>},
    {"NFKC", MakeForm<kCompose | UTF8PROC_COMPAT>},
    {"NFKD", MakeForm<kDecompose | UTF8PROC_COMPAT>},
    {"Lowercase", MakePlain<Lowercase>},
    {"StripAccents", MakePlain<StripAccents>},
    {"ByteLevel", MakePlain<ByteLevel>},
    {"Prepend", MakePrepend},
    {"Strip", MakeStrip},
    {"Replace", MakeReplace},
    {"Sequence", MakeSequence},
};

Made Make(const JsonView& json, int depth) { return MakeComponent(kKinds, json, depth); }

}  // namespace

absl::StatusOr<std::unique_ptr<Normalizer>> Normalizer::FromJson(const JsonView& json) {
  if (json.IsNull()) return nullptr;
  return Make(json, 0);
}

}  // namespace quantd
