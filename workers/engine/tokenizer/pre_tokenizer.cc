// One class a pre-tokenizer, and the table from type names to their makers.
#include "workers/engine/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/tokenizer/byte_alphabet.h"
#include "workers/engine/tokenizer/component.h"
#include "workers/engine/tokenizer/pattern.h"
#include "workers/engine/tokenizer/pattern_json.h"
#include "workers/engine/tokenizer/unicode.h"

namespace quantd {
namespace {

using Made = MadeComponent<PreTokenizer>;
Made Make(const JsonView& json, int depth);

// What becomes of the matches of a pattern that cuts.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

absl::StatusOr<Behavior> BehaviorFromJson(const JsonView& json, absl::string_view otherwise) {
  constexpr std::pair<absl::string_view, Behavior> kNames[] = {
      {"Removed", Behavior::kRemoved},
      {"Isolated", Behavior::kIsolated},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous}};
  QD_ASSIGN_OR_RETURN(std::string name, json.StringOr("behavior", otherwise));
  for (const auto& [known, behavior] : kNames) {
    if (known == name) return behavior;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(json.path(), ".behavior: \"", name.substr(0, 100),
                   "\": must be Removed, Isolated, MergedWithPrevious, MergedWithNext or "
                   "Contiguous"));
}

void AppendSlice(const Piece& piece, size_t begin, size_t end, std::vector<Piece>* out) {
  if (begin == end) return;
  out->push_back(
      {.text = piece.text.substr(begin, end - begin), .at_start = piece.at_start && begin == 0});
}

// Joins each match with its neighbour: `spans` in the order of reading or in reverse.
std::vector<PatternSpan> MergeMatches(const std::vector<PatternSpan>& spans) {
  std::vector<PatternSpan> merged;
  bool previous_matched = false;
  for (const PatternSpan& span : spans) {
    if (span.matched && !previous_matched && !merged.empty()) {
      merged.back().begin = std::min(merged.back().begin, span.begin);
      merged.back().end = std::max(merged.back().end, span.end);
    } else {
      merged.push_back(span);
    }
    previous_matched = span.matched;
  }
  return merged;
}

void Cut(const Piece& piece, std::vector<PatternSpan> spans, Behavior behavior,
         std::vector<Piece>* out) {
  switch (behavior) {
    case Behavior::kIsolated:
      break;
    case Behavior::kRemoved:
      spans.erase(std::remove_if(spans.begin(), spans.end(),
                                 [](const PatternSpan& span) { return span.matched; }),
                  spans.end());
      break;
    case Behavior::kMergedWithPrevious:
      spans = MergeMatches(spans);
      break;
    case Behavior::kMergedWithNext:
      std::reverse(spans.begin(), spans.end());
      spans = MergeMatches(spans);
      std::reverse(spans.begin(), spans.end());
      break;
    case Behavior::kContiguous: {
      std::vector<PatternSpan> merged;
      for (const PatternSpan& span : spans) {
        if (!merged.empty() && merged.back().matched == span.matched) {
          merged.back().end = span.end;
        } else {
          merged.push_back(span);
        }
      }
      spans = std::move(merged);
      break;
    }
  }
  for (const PatternSpan& span : spans) AppendSlice(piece, span.begin, span.end, out);
}

// Cuts at single characters of a class, each a match of its own.
class SplitAtCharacters : public PreTokenizer {
 public:
  SplitAtCharacters(std::function<bool(uint32_t)> in_class, Behavior behavior)
      : in_class_(std::move(in_class)), behavior_(behavior) {}

 protected:
  absl::Status Split(Piece piece, std::vector<Piece>* out) const override {
    std::vector<PatternSpan> spans;
    size_t done = 0;
    for (size_t position = 0; position < piece.text.size();) {
      const size_t at = position;
      if (!in_class_(DecodeUtf8(piece.text, &position))) continue;
      if (done < at) spans.push_back({done, at, false});
      spans.push_back({at, position, true});
      done = position;
    }
    if (done < piece.text.size()) spans.push_back({done, piece.text.size(), false});
    Cut(piece, std::move(spans), behavior_, out);
    return absl::OkStatus();
  }

 private:
  const std::function<bool(uint32_t)> in_class_;
  const Behavior behavior_;
};

class SplitAtPattern : public PreTokenizer {
 public:
  SplitAtPattern(Pattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

 protected:
  absl::Status Split(Piece piece, std::vector<Piece>* out) const override {
    QD_ASSIGN_OR_RETURN(auto spans, pattern_.FindAll(piece.text));
    if (invert_) {
      for (PatternSpan& span : spans) span.matched = !span.matched;
    }
    Cut(piece, std::move(spans), behavior_, out);
    return absl::OkStatus();
  }

 private:
  const Pattern pattern_;
  const Behavior behavior_;
  const bool invert_;
};

// GPT-2's own splitting, which ByteLevel applies unless use_regex is false.
constexpr absl::string_view kByteLevelRegex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, std::unique_ptr<Pattern> pattern)
      : add_prefix_space_(add_prefix_space), pattern_(std::move(pattern)) {}

 protected:
  absl::Status Split(Piece piece, std::vector<Piece>* out) const override {
    if (add_prefix_space_ && piece.text[0] != ' ') piece.text.insert(0, " ");
    const size_t first = out->size();
    if (pattern_ == nullptr) {
      out->push_back(std::move(piece));
    } else {
      QD_ASSIGN_OR_RETURN(auto spans, pattern_->FindAll(piece.text));
      for (const PatternSpan& span : spans) AppendSlice(piece, span.begin, span.end, out);
    }
    for (size_t i = first; i < out->size(); ++i) {
      (*out)[i].text = BytesToAlphabet((*out)[i].text);
    }
    return absl::OkStatus();
  }

 private:
  const bool add_prefix_space_;
  const std::unique_ptr<Pattern> pattern_;  // Null: no splitting.
};

class Metaspace : public PreTokenizer {
 public:
  enum class Scheme { kAlways, kFirst, kNever };
  Metaspace(std::string replacement, Pattern pattern, Scheme scheme, bool split)
      : replacement_(std::move(replacement)),
        pattern_(std::move(pattern)),
        scheme_(scheme),
        split_(split) {}

 protected:
  absl::Status Split(Piece piece, std::vector<Piece>* out) const override {
    absl::StrReplaceAll({{" ", replacement_}}, &piece.text);
    const bool wanted = scheme_ == Scheme::kAlways || (scheme_ == Scheme::kFirst && piece.at_start);
    if (wanted && !absl::StartsWith(piece.text, replacement_)) piece.text.insert(0, replacement_);
    if (!split_) {
      out->push_back(std::move(piece));
      return absl::OkStatus();
    }
    QD_ASSIGN_OR_RETURN(auto spans, pattern_.FindAll(piece.text));
    Cut(piece, std::move(spans), Behavior::kMergedWithNext, out);
    return absl::OkStatus();
  }

 private:
  const std::string replacement_;
  const Pattern pattern_;  // The replacement as a literal.
  const Scheme scheme_;
  const bool split_;
};

// Runs of word characters and runs of what is neither word nor blank: \w+|[^\w\s]+.
class Whitespace : public PreTokenizer {
 protected:
  absl::Status Split(Piece piece, std::vector<Piece>* out) const override {
    enum Class { kBlank, kWord, kOther };
    size_t begin = 0;
    Class current = kBlank;
    for (size_t position = 0; position < piece.text.size();) {
      const size_t at = position;
      const int32_t c = DecodeUtf8(piece.text, &position);
      const Class next = IsWordCharacter(c) ? kWord : IsWhitespace(c) ? kBlank : kOther;
      if (next == current) continue;
      if (current != kBlank) AppendSlice(piece, begin, at, out);
      begin = at;
      current = next;
    }
    if (current != kBlank) AppendSlice(piece, begin, piece.text.size(), out);
    return absl::OkStatus();
  }
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PreTokenizer>> parts) : parts_(std::move(parts)) {}

 protected:
  absl::Status Split(Piece piece, std::vector<Piece>* out) const override {
    std::vector<Piece> pieces;
    pieces.push_back(std::move(piece));
    for (const auto& part : parts_) QD_RETURN_IF_ERROR(part->Apply(&pieces));
    std::move(pieces.begin(), pieces.end(), std::back_inserter(*out));
    return absl::OkStatus();
  }

 private:
  const std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

Made MakeByteLevel(const JsonView& json, int) {
  QD_ASSIGN_OR_RETURN(bool add_prefix_space, json.BoolOr("add_prefix_space", true));
  QD_ASSIGN_OR_RETURN(bool use_regex, json.BoolOr("use_regex", true));
  std::unique_ptr<Pattern> pattern;
  if (use_regex) {
    QD_ASSIGN_OR_RETURN(Pattern compiled, Pattern::Regex(kByteLevelRegex));
    pattern = std::make_unique<Pattern>(std::move(compiled));
  }
  return std::make_unique<ByteLevel>(add_prefix_space, std::move(pattern));
}

Made MakeSplit(const JsonView& json, int) {
  QD_ASSIGN_OR_RETURN(Pattern pattern, PatternFromJson(json));
  QD_ASSIGN_OR_RETURN(Behavior behavior, BehaviorFromJson(json, ""));
  QD_ASSIGN_OR_RETURN(bool invert, json.BoolOr("invert", false));
  return std::make_unique<SplitAtPattern>(std::move(pattern), behavior, invert);
}

Made MakeMetaspace(const JsonView& json, int) {
  QD_ASSIGN_OR_RETURN(std::string replacement, json.StringOr("replacement", "\u2581"));
  QD_ASSIGN_OR_RETURN(bool add_prefix_space, json.BoolOr("add_prefix_space", true));
  QD_ASSIGN_OR_RETURN(std::string name,
                      json.StringOr("prepend_scheme", add_prefix_space ? "always" : "never"));
  QD_ASSIGN_OR_RETURN(bool split, json.BoolOr("split", true));
  if (replacement.empty()) return json.Error("replacement must be one character");
  Metaspace::Scheme scheme;
  if (name == "always") {
    scheme = Metaspace::Scheme::kAlways;
  } else if (name == "first") {
    scheme = Metaspace::Scheme::kFirst;
  } else if (name == "never") {
    scheme = Metaspace::Scheme::kNever;
  } else {
    return json.Error(absl::StrCat("prepend_scheme \"", name.substr(0, 100),
                                   "\": must be always, first or never"));
  }
  QD_ASSIGN_OR_RETURN(Pattern pattern, Pattern::Literal(replacement));
  return std::make_unique<Metaspace>(std::move(replacement), std::move(pattern), scheme, split);
}

Made MakeDigits(const JsonView& json, int) {
  QD_ASSIGN_OR_RETURN(bool individual, json.BoolOr("individual_digits", false));
  return std::make_unique<SplitAtCharacters>(
      IsNumeric, individual ? Behavior::kIsolated : Behavior::kContiguous);
}

Made MakePunctuation(const JsonView& json, int) {
  QD_ASSIGN_OR_RETURN(Behavior behavior, BehaviorFromJson(json, "Isolated"));
  return std::make_unique<SplitAtCharacters>(IsPunctuation, behavior);
}

Made MakeWhitespace(const JsonView&, int) { return std::make_unique<Whitespace>(); }

Made MakeWhitespaceSplit(const JsonView&, int) {
  return std::make_unique<SplitAtCharacters>(IsWhitespace, Behavior::kRemoved);
}

Made MakeSequence(const JsonView& json, int depth) {
  QD_ASSIGN_OR_RETURN(auto parts,
                      MakeComponentList<PreTokenizer>(Make, json, "pretokenizers", depth));
  return std::make_unique<Sequence>(std::move(parts));
}

constexpr ComponentKind<PreTokenizer> kKinds[] = {
    {"ByteLevel", MakeByteLevel},     {"Split", MakeSplit},
    {"Metaspace", MakeMetaspace},     {"Digits", MakeDigits},
    {"Punctuation", MakePunctuation}, {"Whitespace", MakeWhitespace},
    {"Sequence", MakeSequence},       {"WhitespaceSplit", MakeWhitespaceSplit},
};

Made Make(const JsonView& json, int depth) { return MakeComponent(kKinds, json, depth); }

}  // namespace

absl::Status PreTokenizer::Apply(std::vector<Piece>* pieces) const {
  std::vector<Piece> out;
  for (Piece& piece : *pieces) {
    if (piece.added_id >= 0) {
      out.push_back(std::move(piece));
    } else if (!piece.text.empty()) {
      QD_RETURN_IF_ERROR(Split(std::move(piece), &out));
    }
  }
  *pieces = std::move(out);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::FromJson(const JsonView& json) {
  if (json.IsNull()) return nullptr;
  return Make(json, 0);
}

}  // namespace quantd
