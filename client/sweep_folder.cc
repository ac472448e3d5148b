// One pass over the cells, one over each cell's stages.
#include "client/sweep_folder.h"

#include <google/protobuf/util/json_util.h>

#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/outcome.h"
#include "client/render/board.h"
#include "client/render/failure.h"

namespace quantd {
namespace {

using google::protobuf::Struct;

// A name for each cell: its own, below its model's where the sweep has several.
std::map<std::string, const v1::Sweep::Cell*> CellFolders(const v1::Sweep& sweep) {
  std::set<std::string> models;
  for (const v1::Sweep::Cell& cell : sweep.cells()) models.insert(cell.model());
  std::map<std::string, const v1::Sweep::Cell*> folders;
  for (const v1::Sweep::Cell& cell : sweep.cells()) {
    const std::vector<std::string> parts = absl::StrSplit(cell.model(), '/');
    std::string folder =
        models.size() > 1 ? absl::StrCat(parts.back(), "/", cell.name()) : cell.name();
    while (folders.count(folder) > 0) folder += "-2";
    folders[folder] = &cell;
  }
  return folders;
}

absl::Status WriteJson(const std::string& path, const Struct& object) {
  std::string text;
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  if (!google::protobuf::util::MessageToJsonString(object, &text, options).ok()) {
    return absl::InternalError(absl::StrCat(path, ": the result has no JSON form"));
  }
  QD_RETURN_IF_ERROR(MakeFolders(path.substr(0, path.rfind('/'))));
  return WriteFileAtomic(path, text);
}

void SetText(const std::string& name, const std::string& text, Struct* object) {
  (*object->mutable_fields())[name].set_string_value(text);
}

Struct StageRecord(const v1::Job& job) {
  Struct record;
  SetText("job", ShortName(job.name()), &record);
  SetText("state", StateWord(job.state()), &record);
  if (job.has_failure() && job.state() == v1::JOB_STATE_FAILED) {
    Struct& failure = *(*record.mutable_fields())["failure"].mutable_struct_value();
    SetText("class", ErrorClassWord(job.failure().error_class()), &failure);
    SetText("message", job.failure().message(), &failure);
    SetText("remedy", job.failure().remedy(), &failure);
  }
  if (!job.result().fields().empty()) {
    *(*record.mutable_fields())["result"].mutable_struct_value() = job.result();
  }
  return record;
}

absl::StatusOr<v1::Job> GetJob(Session& session, const std::string& name) {
  v1::GetJobRequest request;
  request.set_name(name);
  return session.scheduler().Call(request);
}

absl::Status BringCell(Session& session, const v1::Sweep::Cell& cell, const std::string& folder,
                       const std::string& name) {
  Struct metrics;
  SetText("variant", cell.name(), &metrics);
  SetText("model", cell.model(), &metrics);
  (*metrics.mutable_fields())["baseline"].set_bool_value(cell.baseline());
  Struct& stages = *(*metrics.mutable_fields())["stages"].mutable_struct_value();
  for (const v1::Sweep::Stage& stage : cell.stages()) {
    QD_ASSIGN_OR_RETURN(const v1::Job job, GetJob(session, stage.job()));
    if (stage.kind() == "compare") {
      if (job.state() != v1::JOB_STATE_SUCCEEDED) continue;
      QD_RETURN_IF_ERROR(
          WriteJson(absl::StrCat(folder, "/comparisons/", name, ".json"), job.result()));
      continue;
    }
    *(*stages.mutable_fields())[stage.kind()].mutable_struct_value() = StageRecord(job);
    const auto measured = job.result().fields().find("metrics");
    if (stage.kind() == "evaluate" && measured != job.result().fields().end()) {
      (*metrics.mutable_fields())["metrics"] = measured->second;
    }
    if (job.state() != v1::JOB_STATE_SUCCEEDED) continue;
    for (const auto& [kind, place] : {std::pair("quantize", "models"), {"evaluate", "samples"}}) {
      if (stage.kind() != kind || job.output().files().empty()) continue;
      QD_RETURN_IF_ERROR(
          BringHome(session, job.output(), absl::StrCat(folder, "/", place, "/", name)));
    }
  }
  return WriteJson(absl::StrCat(folder, "/metrics/", name, ".json"), metrics);
}

}  // namespace

absl::Status BringHome(Session& session, const v1::Sweep& sweep, const std::string& folder) {
  for (const auto& [name, cell] : CellFolders(sweep)) {
    QD_RETURN_IF_ERROR(CheckRelativePath(name), "the sweep has a variant whose name is refused");
    QD_RETURN_IF_ERROR(BringCell(session, *cell, folder, name), "bringing home ", name);
  }
  if (sweep.report_job().empty()) return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(const v1::Job report, GetJob(session, sweep.report_job()));
  if (report.output().files().empty()) return absl::OkStatus();
  return BringHome(session, report.output(), folder);
}

}  // namespace quantd
