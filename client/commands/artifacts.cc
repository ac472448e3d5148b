// quantctl artifacts: what jobs wrote.
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/outcome.h"
#include "proto/names.h"

namespace quantd {
namespace {

struct Flags {
  std::string what, output = ".", file;
  int limit = 100;
};

std::string Id(const std::string& name) { return name.substr(name.rfind('/') + 1); }

// "artifacts/{sha}" and a bare digest name an artifact; everything else a job.
bool NamesArtifact(absl::string_view text) { return IsSha256Hex(text.substr(text.rfind('/') + 1)); }

absl::StatusOr<v1::Manifest> FindManifest(Session& session, const std::string& text) {
  if (NamesArtifact(text)) {
    v1::GetArtifactRequest request;
    request.set_name(ArtifactName({session.tenant(), Id(text)}));
    QD_ASSIGN_OR_RETURN(const v1::Artifact artifact, session.scheduler().Call(request));
    return artifact.manifest();
  }
  v1::GetJobRequest request;
  QD_ASSIGN_OR_RETURN(*request.mutable_name(), session.JobName(text));
  QD_ASSIGN_OR_RETURN(const v1::Job job, session.scheduler().Call(request));
  if (job.output().files().empty()) {
    return absl::NotFoundError(absl::StrCat(ShortName(job.name()), " has written no files; it is ",
                                            v1::JobState_Name(job.state())));
  }
  return job.output();
}

int ListFiles(Session& session, const std::string& text) {
  const absl::StatusOr<v1::Manifest> manifest = FindManifest(session, text);
  if (!manifest.ok()) return session.Fail(manifest.status());
  if (session.json()) {
    session.PrintJson("", *manifest);
    return kExitOk;
  }
  Table table(
      {{"file"}, {"size", Align::kRight}, {"role", Align::kLeft, 2}, {"sha256", Align::kLeft, 1}});
  for (const v1::ManifestFile& file : manifest->files()) {
    table.AddRow(
        {file.path(), FormatBytes(file.blob().size_bytes()), file.role(), file.blob().sha256()});
  }
  session.PrintTable(table);
  return kExitOk;
}

int ListAll(Session& session, const Flags& flags) {
  v1::ListArtifactsRequest request;
  request.set_parent(session.parent());
  Table table(
      {{"artifact"}, {"files", Align::kRight}, {"size", Align::kRight}, {"job", Align::kLeft, 1}});
  int left = flags.limit;
  do {
    request.set_page_size(std::min(left, 1000));
    const absl::StatusOr<v1::ListArtifactsResponse> page = session.scheduler().Call(request);
    if (!page.ok()) return session.Fail(page.status());
    for (const v1::Artifact& artifact : page->artifacts()) {
      if (left-- <= 0) break;
      if (session.json()) {
        session.PrintJson("artifact", artifact);
        continue;
      }
      table.AddRow({Id(artifact.name()), std::to_string(artifact.manifest().files_size()),
                    FormatBytes(artifact.manifest().total_bytes()), Id(artifact.job())});
    }
    request.set_page_token(page->next_page_token());
  } while (left > 0 && !request.page_token().empty());
  if (!session.json()) session.PrintTable(table);
  return kExitOk;
}

}  // namespace

Action DeclareArtifactsList(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("JOB|SHA", flags->what,
                  "A job or an artifact: its files; without: all artifacts");
  app->add_option("--limit", flags->limit, "At most this many (default 100)")
      ->check(CLI::PositiveNumber);
  return [flags](Session& session) {
    return flags->what.empty() ? ListAll(session, *flags) : ListFiles(session, flags->what);
  };
}

Action DeclareArtifactsGet(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("JOB|SHA", flags->what, "A job, or the SHA-256 of an artifact")->required();
  app->add_option("-o,--output", flags->output, "Folder (default: this one)")->type_name("DIR");
  app->add_option("--file", flags->file, "Only this file of it")->type_name("PATH");
  return [flags](Session& session) {
    const absl::StatusOr<v1::Manifest> manifest = FindManifest(session, flags->what);
    if (!manifest.ok()) return session.Fail(manifest.status());
    const absl::Status status = BringHome(session, *manifest, flags->output, flags->file);
    return status.ok() ? static_cast<int>(kExitOk) : session.Fail(status);
  };
}

}  // namespace quantd
