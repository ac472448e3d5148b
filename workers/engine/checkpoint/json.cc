// A checking pass over the SAX events first, because nlohmann's tree silently keeps the last of two
// equal keys.
#include "workers/engine/checkpoint/json.h"

#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"

namespace quantd::engine {
namespace {

constexpr size_t kMessageTextMax = 100;  // Of a foreign value in a message.
// An index of as many tensors as one file may hold, and room. The tree takes some 300 bytes a key.
constexpr int64_t kKeysMax = 600'000;

class Checker : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return Enter(); }
  bool start_array(size_t) override { return Enter(); }
  bool end_object() override { return Leave(); }
  bool end_array() override { return Leave(); }
  bool key(string_t& name) override {
    if (++count_ > kKeysMax) {
      error_ = absl::StrCat("holds more than ", kKeysMax, " keys");
      return false;
    }
    if (keys_.back().insert(name).second) return true;
    error_ = absl::StrCat("the key ", Quoted(name), " appears twice in one object");
    return false;
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    error_ = absl::StrCat("not valid JSON at byte ", position);
    return false;
  }
  const std::string& error() const { return error_; }

 private:
  bool Enter() {
    keys_.emplace_back();
    if (keys_.size() <= kJsonDepthMax) return true;
    error_ = absl::StrCat("nested more than ", kJsonDepthMax, " deep");
    return false;
  }
  bool Leave() {
    keys_.pop_back();
    return true;
  }
  std::vector<absl::flat_hash_set<std::string>> keys_;
  int64_t count_ = 0;
  std::string error_;
};

}  // namespace

absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text, absl::string_view origin) {
  Checker checker;
  if (!SaxParse(text, &checker)) {
    return absl::DataLossError(absl::StrCat(origin, ": ", checker.error()));
  }
  nlohmann::json json = nlohmann::json::parse(text.begin(), text.end(), /*cb=*/nullptr,
                                              /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::DataLossError(
        absl::StrCat(origin, ": must be a JSON object but is ", JsonText(json)));
  }
  return json;
}

absl::StatusOr<nlohmann::json> ReadJsonObject(const std::string& path, int64_t limit_bytes) {
  absl::StatusOr<std::string> text = ReadFile(path, limit_bytes);
  if (!text.ok()) return text.status();
  return ParseJsonObject(*text, path);
}

std::string JsonText(const nlohmann::json& value) {
  std::string text =
      value.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  if (text.size() > kMessageTextMax) text = absl::StrCat(text.substr(0, kMessageTextMax), "...");
  return text;
}

std::string Quoted(absl::string_view text) {
  const bool cut = text.size() > kMessageTextMax;
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, kMessageTextMax)),
                      cut ? "...\"" : "\"");
}

}  // namespace quantd::engine
