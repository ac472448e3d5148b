// yaml-cpp's parser behind checks.
#include "proto/yaml_document.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/parser.h>
#include <yaml-cpp/yaml.h>

#include <exception>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "base/utf8.h"

namespace quantd::yaml_internal {
namespace {

// A sweep of a thousand variants is 100 KB; a request may hold 4 MiB.
constexpr size_t kTextBytesMax = size_t{1} << 20;
// Notes where a document begins, and the first text in it that is not UTF-8: yaml-cpp turns the
// escapes \_ and \N into bytes that are none.
class DocumentMark : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& at) override { mark = at; }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark& at, const std::string&, YAML::anchor_t,
                const std::string& text) override {
    if (damaged.is_null() && !IsValidUtf8(text)) damaged = at;
  }
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}

  YAML::Mark mark = YAML::Mark::null_mark();
  YAML::Mark damaged = YAML::Mark::null_mark();
};

}  // namespace

bool LoadDocument(absl::string_view text, YAML::Node* node, DocumentError* error) {
  if (text.size() > kTextBytesMax) {
    error->why = absl::StrCat("is larger than the limit of ", kTextBytesMax, " bytes");
    return false;
  }
  if (!IsValidUtf8(text)) {
    error->why = "is not valid UTF-8";
    return false;
  }
  try {
    const std::string copy(text);
    std::istringstream stream(copy);
    YAML::Parser parser(stream);
    DocumentMark first, second;
    parser.HandleNextDocument(first);
    // Not LoadAll: on a stray ',' it finds empty documents for ever.
    if (parser.HandleNextDocument(second)) {
      *error = {second.mark, "a second document begins here; only one a file"};
      return false;
    }
    if (!first.damaged.is_null()) {
      *error = {first.damaged,
                "holds an escape that is not read right; write the character itself"};
      return false;
    }
    *node = YAML::Load(copy);
    return true;
  } catch (const YAML::Exception& exception) {
    *error = {exception.mark, absl::StrCat("is not YAML: ", exception.msg)};
  } catch (const std::exception& exception) {
    *error = {YAML::Mark::null_mark(), absl::StrCat("cannot be read: ", exception.what())};
  }
  return false;
}

}  // namespace quantd::yaml_internal
