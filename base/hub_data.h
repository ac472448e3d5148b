// Names on the Hugging Face Hub: of models, and of data sets' files as fsspec, pandas and DuckDB
// write them, with the short names of those that papers calibrate with. Known to the client, which
// lets them pass, and to the engine, which fetches them.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd {

// Whether `text` can name a model there: "org/name" or "org/name@revision". No path with a leading
// '.', '/' or '~', a trailing or a second slash, or a space can.
bool IsHubName(absl::string_view text);

// Of "hf://datasets/org/name[@revision]/path". A path with one '*' stands for the first file, by
// name, that begins and ends so: the first shard.
struct HubDataName {
  std::string repository;         // "org/name"
  std::string revision = "main";  // A branch, a tag or a commit.
  std::string begins, ends;       // Of the file's path; `ends` is empty without a '*'.

  bool Matches(absl::string_view file) const;
};

// Whether `text` has to be fetched: one of the short names, or a URI of that form.
bool IsHubData(absl::string_view text);

// InvalidArgument says what is wrong with a URI and what a name may be.
absl::StatusOr<HubDataName> ParseHubData(absl::string_view text);

// The short names, as words of an error: "c4, pileval, ...".
std::string HubDataNames();

}  // namespace quantd
