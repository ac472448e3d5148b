// See hub_data.h.
#include "base/hub_data.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"

namespace quantd {
namespace {

// The Hub's own limit for each half of a repository's name.
constexpr size_t kNamePartLimit = 96;
constexpr absl::string_view kScheme = "hf://";
constexpr absl::string_view kDatasets = "hf://datasets/";

struct ShortName {
  absl::string_view name, uri;
};
// C4 and the Pile are taken from their first ten thousand documents: the whole sets are terabytes,
// and calibration needs a few hundred documents.
constexpr ShortName kNames[] = {
    {"c4", "hf://datasets/NeelNanda/c4-10k/data/train-*.parquet"},
    {"pileval", "hf://datasets/NeelNanda/pile-10k/data/train-*.parquet"},
    {"ultrachat", "hf://datasets/HuggingFaceH4/ultrachat_200k/data/test_sft-*.parquet"},
    {"wikitext", "hf://datasets/Salesforce/wikitext/wikitext-2-raw-v1/train-*.parquet"},
};

const ShortName* Find(absl::string_view text) {
  for (const ShortName& row : kNames) {
    if (row.name == text) return &row;
  }
  return nullptr;
}

bool IsNamePart(absl::string_view part) {
  return !part.empty() && part.size() <= kNamePartLimit && part[0] != '.' && part[0] != '-' &&
         !absl::StrContains(part, "..") && !absl::StrContains(part, "--") &&
         std::all_of(part.begin(), part.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

absl::Status Bad(absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("data \"", text, "\" ", why, "; a file of the Hub is named ", kDatasets,
                   "org/name[@revision]/path, with at most one * in the path"));
}

}  // namespace

bool IsHubName(absl::string_view text) {
  const std::vector<absl::string_view> revision = absl::StrSplit(text, absl::MaxSplits('@', 1));
  if (revision.size() == 2 && !CheckRelativePath(revision[1]).ok()) return false;
  const std::vector<absl::string_view> parts = absl::StrSplit(revision[0], '/');
  return parts.size() == 2 && IsNamePart(parts[0]) && IsNamePart(parts[1]);
}

bool HubDataName::Matches(absl::string_view file) const {
  if (ends.empty()) return file == begins;
  return file.size() >= begins.size() + ends.size() && absl::StartsWith(file, begins) &&
         absl::EndsWith(file, ends);
}

bool IsHubData(absl::string_view text) {
  return absl::StartsWith(text, kScheme) || Find(text) != nullptr;
}

absl::StatusOr<HubDataName> ParseHubData(absl::string_view text) {
  const ShortName* known = Find(text);
  absl::string_view rest = known != nullptr ? known->uri : text;
  if (!absl::ConsumePrefix(&rest, kDatasets)) return Bad(text, "is not in the Hub's data sets");
  const std::vector<absl::string_view> parts = absl::StrSplit(rest, absl::MaxSplits('/', 2));
  if (parts.size() < 3 || parts[0].empty() || parts[1].empty()) return Bad(text, "names no file");
  for (const absl::string_view part : absl::StrSplit(parts[2], '/')) {
    if (part.empty() || part == "." || part == "..") return Bad(text, "has an impossible path");
  }
  HubDataName name;
  const std::vector<absl::string_view> revision = absl::StrSplit(parts[1], absl::MaxSplits('@', 1));
  if (revision.size() == 2) {
    if (revision[1].empty()) return Bad(text, "has an empty revision");
    name.revision = std::string(revision[1]);
  }
  name.repository = absl::StrCat(parts[0], "/", revision[0]);
  const std::vector<absl::string_view> path = absl::StrSplit(parts[2], '*');
  if (path.size() > 2) return Bad(text, "has more than one *");
  name.begins = std::string(path[0]);
  if (path.size() == 2) {
    if (path[1].empty()) return Bad(text, "ends in *, so that its kind cannot be seen");
    name.ends = std::string(path[1]);
  }
  return name;
}

std::string HubDataNames() {
  return absl::StrJoin(
      kNames, ", ", [](std::string* out, const ShortName& row) { absl::StrAppend(out, row.name); });
}

}  // namespace quantd
