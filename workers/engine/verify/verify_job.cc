// Checks of a written checkpoint, in the order of what they cost. Reads only the files: nothing of
// the job that wrote them is trusted but its records, which are what is held against the files.
#include "workers/engine/verify/verify_job.h"

#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/formats/format.h"
#include "workers/engine/formats/gguf_tokenizer.h"
#include "workers/engine/formats/open.h"
#include "workers/engine/job/context.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/models/model.h"
#include "workers/engine/quantize/assemble.h"
#include "workers/engine/quantize/probe.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/torch_call.h"
#include "workers/engine/tokenizer/tokenizer.h"

namespace quantd::engine {
namespace {

constexpr char kQuestion[] = "Question: What is 2+2?\nAnswer:";
constexpr int64_t kAnswerTokens = 16;
constexpr int64_t kRecordBytesMax = int64_t{256} << 20;
constexpr size_t kWordsInDetailMax = 5;  // Names in one detail; the first few say enough.

class Checks {
 public:
  // `status` OK: passed with `detail`.
  void Add(const char* name, const absl::Status& status, absl::string_view detail) {
    all_passed_ = all_passed_ && status.ok();
    if (!status.ok()) failed_.push_back(absl::StrCat(name, ": ", status.message()));
    list_.push_back({{"name", name},
                     {"passed", status.ok()},
                     {"detail", std::string(status.ok() ? detail : status.message())}});
  }
  bool all_passed() const { return all_passed_; }
  std::string Failed() const { return absl::StrJoin(failed_, "; "); }
  nlohmann::json Json() const { return {{"passed", all_passed_}, {"checks", list_}}; }

 private:
  bool all_passed_ = true;
  std::vector<std::string> failed_;
  nlohmann::json list_ = nlohmann::json::array();
};

absl::StatusOr<nlohmann::json> ReadRecord(const std::string& folder, const char* name) {
  return ReadJsonObject(absl::StrCat(folder, "/", name), kRecordBytesMax);
}

absl::StatusOr<std::string> TextField(const nlohmann::json& object, const char* name) {
  const auto found = object.find(name);
  if (found != object.end() && found->is_string()) return found->get<std::string>();
  return absl::InvalidArgumentError(absl::StrCat(kMetadataFile, " has no ", name));
}

// What the files must hold: dense tensors, and the format's tensors for every module of the
// records.
absl::StatusOr<std::map<std::string, TensorInfo>> Expected(const Checkpoint& checkpoint,
                                                           const nlohmann::json& metadata) {
  QD_ASSIGN_OR_RETURN(const std::string format_name, TextField(metadata, "format"));
  const absl::StatusOr<const Format*> found = FindFormat(format_name);
  if (!found.ok()) return WithErrorClass(found.status(), ErrorClass::kBadInput);
  const Format* const format = *found;
  QD_ASSIGN_OR_RETURN(const Architecture* row, FindArchitecture(checkpoint.config()));
  std::map<std::string, TensorInfo> expected;
  std::set<std::string> quantized;
  const auto modules = metadata.find("modules");
  if (modules == metadata.end() || !modules->is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(kMetadataFile, " lists no modules"));
  }
  for (const nlohmann::json& module : *modules) {
    QD_ASSIGN_OR_RETURN(const LinearScheme scheme, SchemeFromJson(module), kMetadataFile);
    for (TensorInfo& info : format->Describe(scheme)) expected[info.name] = info;
    quantized.insert(scheme.module + ".weight");
  }
  for (const ExpectedTensor& tensor : ExpectedTensors(checkpoint.config(), *row)) {
    if (quantized.contains(tensor.name)) continue;
    QD_ASSIGN_OR_RETURN(TensorInfo info, format->DescribeDense(checkpoint, tensor));
    expected[info.name] = std::move(info);
  }
  for (auto& [name, info] : expected) info.shape = StoredShape(*row, info);
  return expected;
}

absl::Status CheckTensors(const Checkpoint& checkpoint,
                          const std::map<std::string, TensorInfo>& expected) {
  std::vector<std::string> wrong;
  for (const auto& [name, info] : expected) {
    const absl::StatusOr<TensorView> view = checkpoint.Find(name);
    if (!view.ok()) {
      wrong.push_back(absl::StrCat(name, " is missing"));
    } else if (view->dtype != info.dtype || view->shape != info.shape) {
      wrong.push_back(absl::StrCat(name, " is ", DTypeName(view->dtype), ShapeText(view->shape),
                                   " instead of ", DTypeName(info.dtype), ShapeText(info.shape)));
    }
  }
  for (const std::string& name : checkpoint.names()) {
    if (!expected.contains(name)) wrong.push_back(absl::StrCat(name, " does not belong here"));
  }
  if (wrong.empty()) return absl::OkStatus();
  const size_t count = wrong.size();
  wrong.resize(std::min(count, kWordsInDetailMax));
  return absl::DataLossError(
      absl::StrCat(count, " tensors are wrong: ", absl::StrJoin(wrong, ", ")));
}

absl::Status CheckSize(const Checkpoint& checkpoint,
                       const std::map<std::string, TensorInfo>& expected) {
  int64_t bytes = 0;
  for (const auto& [name, info] : expected) {
    QD_ASSIGN_OR_RETURN(const int64_t elements, ElementCount(info.shape));
    bytes += elements * DTypeBytes(info.dtype);
  }
  if (bytes == checkpoint.total_bytes()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("the tensors take ", checkpoint.total_bytes(),
                                          " bytes where their shapes make ", bytes));
}

absl::Status CheckDigest(const Checkpoint& checkpoint, const nlohmann::json& metadata) {
  QD_ASSIGN_OR_RETURN(const std::string recorded, TextField(metadata, "output_digest"));
  const std::string actual = checkpoint.Digest();
  if (actual == recorded) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("the tensors' digest is ", actual, ", recorded is ", recorded));
}

struct Loaded {
  Model model;
  at::ScalarType dtype;
};

// In the dtype of the recorded probe, so that as little as possible differs.
absl::StatusOr<Loaded> LoadAgain(const JobContext& context,
                                 std::shared_ptr<const Checkpoint> checkpoint,
                                 const nlohmann::json& probe) {
  QD_ASSIGN_OR_RETURN(const at::Device device, SelectDevice(context.spec.runtime.device));
  at::ScalarType dtype = at::kFloat;
  if (const auto recorded = probe.find("dtype"); recorded != probe.end() && recorded->is_string()) {
    QD_ASSIGN_OR_RETURN(dtype, ParseComputeDtype(recorded->get<std::string>()));
  }
  QD_ASSIGN_OR_RETURN(const auto source, OpenWeights(checkpoint));
  QD_ASSIGN_OR_RETURN(
      Model model, Model::Load(checkpoint->config(), *source, {.device = device, .dtype = dtype}));
  return Loaded{std::move(model), dtype};
}

absl::StatusOr<std::string> CheckProbe(const Loaded& loaded, const nlohmann::json& probe) {
  const at::Tensor tokens = ProbeTokens(loaded.model.config().vocab_size);
  QD_ASSIGN_OR_RETURN(const at::Tensor logits, loaded.model.Logits(tokens));
  QD_ASSIGN_OR_RETURN(const ProbeDifference difference, TorchCall("comparing logits", [&] {
                        return CompareProbe(probe, logits[0], loaded.dtype,
                                            loaded.model.config().layers);
                      }));
  const std::string words =
      absl::StrCat("logits differ from those in memory by ", difference.largest,
                   ", rounding explains ", difference.bound);
  if (difference.largest <= difference.bound) return words;
  return absl::DataLossError(words);
}

// That it answers at all and with real tokens; how good the answer is is for the evaluation.
absl::StatusOr<std::string> CheckGeneration(const Loaded& loaded, const Checkpoint& checkpoint) {
  QD_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(checkpoint));
  QD_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, tokenizer->Encode(kQuestion));
  QD_ASSIGN_OR_RETURN(const auto answers,
                      loaded.model.Generate({{prompt.begin(), prompt.end()}},
                                            {.new_tokens_max = kAnswerTokens,
                                             .stop_ids = loaded.model.config().eos_token_ids,
                                             .on_step = {}}));
  if (answers.empty() || answers[0].empty()) return absl::DataLossError("nothing was generated");
  const std::vector<int32_t> ids(answers[0].begin(), answers[0].end());
  return absl::StrCat("What is 2+2? ", tokenizer->Decode(ids, {.skip_special_tokens = true}));
}

void Add(Checks& checks, const char* name, const absl::StatusOr<std::string>& outcome) {
  checks.Add(name, outcome.status(), outcome.ok() ? *outcome : "");
}

absl::Status RunChecks(JobContext& context, const std::string& folder, Checks& checks) {
  absl::StatusOr<std::shared_ptr<const Checkpoint>> checkpoint = Checkpoint::Open(folder);
  checks.Add("open", checkpoint.status(), "configuration and all headers are sound");
  const absl::StatusOr<nlohmann::json> metadata = ReadRecord(folder, kMetadataFile);
  const absl::StatusOr<nlohmann::json> probe = ReadRecord(folder, kProbeFile);
  checks.Add("records", !metadata.ok() ? metadata.status() : probe.status(),
             "metadata and probe are there");
  if (!checks.all_passed()) return absl::OkStatus();
  const auto expected = Expected(**checkpoint, *metadata);
  if (!expected.ok()) {
    checks.Add("tensors", expected.status(), "");
    return absl::OkStatus();
  }
  checks.Add("tensors", CheckTensors(**checkpoint, *expected),
             absl::StrCat(expected->size(), " tensors have their names, dtypes and shapes"));
  checks.Add("size", CheckSize(**checkpoint, *expected),
             absl::StrCat((*checkpoint)->total_bytes(), " bytes, as the shapes demand"));
  QD_RETURN_IF_ERROR(context.cancel.Check());
  checks.Add("digest", CheckDigest(**checkpoint, *metadata),
             "the tensors' digest is the recorded one");
  absl::StatusOr<Loaded> loaded = LoadAgain(context, *checkpoint, *probe);
  if (!loaded.ok() && IsOutOfMemory(loaded.status())) return loaded.status();
  checks.Add("load", loaded.status(), "every weight could be decoded");
  if (!loaded.ok()) return absl::OkStatus();
  QD_RETURN_IF_ERROR(context.cancel.Check());
  Add(checks, "logits", CheckProbe(*loaded, *probe));
  Add(checks, "generate", CheckGeneration(*loaded, **checkpoint));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<nlohmann::json> RunVerify(JobContext& context, const VerifySpec& spec) {
  SetThreads(context.spec.runtime.threads);
  QD_ASSIGN_OR_RETURN(std::string folder, context.ResolveModel(spec.model));
  // The records lie beside a GGUF file.
  const std::filesystem::path path = folder;
  if (path.extension() == ".gguf") folder = path.has_parent_path() ? path.parent_path() : ".";
  Checks checks;
  context.events.Progress({.phase = "verify", .done = 0, .total = 1, .unit = "model"});
  QD_RETURN_IF_ERROR(RunChecks(context, folder, checks), "verifying ", spec.model);
  context.events.Progress({.phase = "verify", .done = 1, .total = 1, .unit = "model"});
  if (checks.all_passed()) return checks.Json();
  return WithErrorClass(absl::DataLossError(absl::StrCat("verification of ", spec.model,
                                                         " failed: ", checks.Failed())),
                        ErrorClass::kVerificationFailed);
}

}  // namespace quantd::engine
