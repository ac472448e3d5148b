// Resource names and relative paths: what passes is what it was made from, and never climbs.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "proto/names.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantd;
  const std::string text(fuzz::Text(data, size));
  if (const auto name = ParseJobName(text); name.ok()) {
    fuzz::Require(JobName(*name) == text, "a job's name");
  }
  if (const auto name = ParseSweepName(text); name.ok()) {
    fuzz::Require(SweepName(*name) == text, "a sweep's name");
  }
  if (const auto name = ParseArtifactName(text); name.ok()) {
    fuzz::Require(ArtifactName(*name) == text, "an artifact's name");
  }
  if (const auto name = ParseWorkerName(text); name.ok()) {
    fuzz::Require(WorkerName(*name) == text, "a worker's name");
  }
  if (const auto tenant = ParseTenantName(text); tenant.ok() && !text.empty()) {
    fuzz::Require(TenantName(*tenant) == text, "a tenant's name");
  }
  for (const auto& reference : {ParseJobReference(text, "t"), ParseSweepReference(text, "t")}) {
    if (!reference.ok()) continue;
    fuzz::Require(IsResourceId(reference->tenant) && IsResourceId(reference->id), "a reference");
  }
  if (CheckRelativePath(text).ok()) {
    fuzz::Require(!text.empty() && text[0] != '/', "a relative path is relative");
    fuzz::Require(!absl::StrContains(absl::StrCat("/", text, "/"), "/../"), "and does not climb");
    fuzz::Require(text.find('\0') == std::string::npos, "and holds no NUL");
  }
  return 0;
}
