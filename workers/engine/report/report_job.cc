// Reads the samples that evaluate jobs left, compares, and writes the files.
#include "workers/engine/report/report_job.h"

#include <dirent.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "workers/engine/report/comparison.h"
#include "workers/engine/report/render.h"

namespace quantd::engine {
namespace {

// Samples of ten thousand questions are 3 MB; without them differences are not paired, no more.
constexpr int64_t kSamplesBytesMax = int64_t{256} << 20;

std::vector<std::string> ReadSamples(const std::string& folder) {
  std::vector<std::string> names;
  if (DIR* dir = opendir(folder.c_str())) {
    while (const dirent* entry = readdir(dir)) {
      const absl::string_view name = entry->d_name;
      if (absl::StartsWith(name, "samples_") && absl::EndsWith(name, ".jsonl")) {
        names.emplace_back(name);
      }
    }
    closedir(dir);
  }
  std::sort(names.begin(), names.end());
  std::vector<std::string> texts;
  for (const std::string& name : names) {
    absl::StatusOr<std::string> text = ReadFile(absl::StrCat(folder, "/", name), kSamplesBytesMax);
    if (text.ok()) {
      texts.push_back(*std::move(text));
    } else {
      LogWarning("samples not read", {{"file", name}, {"why", text.status().message()}});
    }
  }
  return texts;
}

absl::StatusOr<nlohmann::json> CompareVariants(JobContext& context,
                                               const std::vector<Variant>& variants) {
  context.events.Progress({"compare", 0, static_cast<int64_t>(variants.size()), "variant"});
  QD_ASSIGN_OR_RETURN(std::vector<VariantFacts> facts,
                      GatherFacts(variants, context.inputs, ReadSamples));
  nlohmann::json comparison = CompareFacts(std::move(facts));
  const auto count = static_cast<int64_t>(variants.size());
  context.events.Progress({"compare", count, count, "variant"});
  return comparison;
}

}  // namespace

absl::StatusOr<nlohmann::json> RunCompare(JobContext& context, const CompareSpec& spec) {
  return CompareVariants(context, spec.variants);
}

absl::StatusOr<nlohmann::json> RunReport(JobContext& context, const ReportSpec& spec) {
  QD_ASSIGN_OR_RETURN(nlohmann::json report, CompareVariants(context, spec.variants));
  report["title"] = spec.title;
  const std::pair<const char*, std::string> files[] = {
      {"report.json", report.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"},
      {"report.md", RenderMarkdown(report, spec.title)},
      {"report.html", RenderHtml(report, spec.title)},
      {"summary.csv", RenderCsv(report)}};
  for (const auto& [name, text] : files) {
    QD_RETURN_IF_ERROR(WriteFileAtomic(absl::StrCat(context.output_dir, "/", name), text));
    context.events.Artifact(name, "report");
  }
  return report;
}

}  // namespace quantd::engine
