// How every section of a tokenizer.json becomes objects: a "type" looked up in a table of makers,
// and "Sequence" components that hold a list of others.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"
#include "workers/engine/tokenizer/json_view.h"

namespace quantd {

// Components of components deeper than this are refused: real files stop at two.
constexpr int kComponentDepthLimit = 8;

template <typename Base>
using MadeComponent = absl::StatusOr<std::unique_ptr<Base>>;

template <typename Base>
struct ComponentKind {
  absl::string_view type;
  MadeComponent<Base> (*make)(const JsonView& json, int depth);
};

// Makes the component that `json` describes. Unimplemented, with the types of the table, for a type
// that is not in it.
template <typename Base, size_t count>
MadeComponent<Base> MakeComponent(const ComponentKind<Base> (&kinds)[count], const JsonView& json,
                                  int depth) {
  if (depth > kComponentDepthLimit) return json.Error("sequences nested too deeply");
  QD_ASSIGN_OR_RETURN(std::string type, json.Type());
  std::string supported;
  for (const ComponentKind<Base>& kind : kinds) {
    if (kind.type == type) return kind.make(json, depth);
    absl::StrAppend(&supported, supported.empty() ? "" : ", ", kind.type);
  }
  return json.UnsupportedType(type, supported);
}

// The components in the array `json.list_name`, each made by `make`.
template <typename Base>
absl::StatusOr<std::vector<std::unique_ptr<Base>>> MakeComponentList(
    MadeComponent<Base> (*make)(const JsonView&, int), const JsonView& json,
    absl::string_view list_name, int depth) {
  QD_ASSIGN_OR_RETURN(JsonView list, json.Member(list_name));
  QD_ASSIGN_OR_RETURN(std::vector<JsonView> elements, list.Elements());
  std::vector<std::unique_ptr<Base>> parts;
  for (const JsonView& element : elements) {
    QD_ASSIGN_OR_RETURN(std::unique_ptr<Base> part, make(element, depth + 1));
    parts.push_back(std::move(part));
  }
  return parts;
}

}  // namespace quantd
