// The text of one YAML document as a node tree: yaml-cpp with its exceptions and traps kept inside.
#pragma once

#include <yaml-cpp/mark.h>
#include <yaml-cpp/node/node.h>

#include <string>

#include "absl/strings/string_view.h"

namespace quantd::yaml_internal {

// Why a text is no document, and where; `mark` is null where no place is known.
struct DocumentError {
  YAML::Mark mark = YAML::Mark::null_mark();
  std::string why;
};

// False, with the error, for text that is too large, not UTF-8, not YAML, or more than one
// document. An empty text is an empty node.
bool LoadDocument(absl::string_view text, YAML::Node* node, DocumentError* error);

}  // namespace quantd::yaml_internal
