// Walks a spec once. Checks that need a catalog are skipped when there is none.
#include "server/validation/spec_validation.h"

#include <algorithm>
#include <cstdlib>
#include <regex>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "base/nearest.h"
#include "base/sha256.h"
#include "base/utf8.h"
#include "proto/device_names.h"
#include "proto/names.h"
#include "server/validation/findings.h"
#include "server/validation/option_validation.h"

namespace quantd {
namespace {

constexpr size_t kDisplayNameBytesMax = 200;
constexpr int kPriorityMax = 1000;
constexpr int64_t kDurationSecondsMax = 366 * 86400;  // A larger one is a mistake of unit.
constexpr size_t kModelBytesMax = 1024;
constexpr int kSequencesMax = 1'000'000;
constexpr int kTokensMax = 1 << 20;
constexpr int kBatchMax = 65'536;
constexpr int kTasksMax = 1000;
constexpr int kVariantsMax = 1000;
constexpr int kOverridesMax = 1000;
constexpr int kModelsMax = 1000;
constexpr int kSizesMax = 1000;  // Of a benchmark.
constexpr int kJobsMax = 1000;   // Of a variant.
// Dependencies and variants of a report: one over a large sweep has thousands.
constexpr int kReportedMax = 10'000;
// std::regex recurses while it compiles; longer patterns could exhaust a thread's stack.
constexpr size_t kPatternBytesMax = 1000;
constexpr int kThreadsMax = 4096;

template <typename Named>
std::vector<std::string> NamesOf(const google::protobuf::RepeatedPtrField<Named>& list) {
  std::vector<std::string> names;
  for (const Named& each : list) names.push_back(each.name());
  return names;
}

template <typename Named>
const Named* Find(const google::protobuf::RepeatedPtrField<Named>& list, const std::string& name) {
  for (const Named& each : list) {
    if (each.name() == name) return &each;
  }
  return nullptr;
}

class Resolver {
 public:
  Resolver(const v1::Catalog& catalog, SpecFindings* findings, bool sweep)
      : catalog_(catalog),
        known_(catalog.kinds_size() > 0),
        sweep_(sweep),
        root_("spec", findings) {
    if (!known_) {
      findings->warnings.push_back(
          "no worker has registered yet: methods, options and tasks are checked when the job runs");
    }
  }

  void Job(v1::JobSpec* spec) {
    Common(*spec);
    const int dependencies = (root_ / "dependencies").UpTo(kReportedMax, spec->dependencies_size());
    for (int i = 0; i < dependencies; ++i) {
      JobReference((root_ / "dependencies")[i] / "job", spec->dependencies(i).job());
    }
    if (spec->has_runtime()) Runtime(spec->runtime());
    const char* kind = Kind(spec);
    if (kind != nullptr && known_ &&
        std::count(catalog_.kinds().begin(), catalog_.kinds().end(), kind) == 0) {
      root_.Refuse("no worker does jobs of the kind ", kind,
                   "; there are: ", absl::StrJoin(catalog_.kinds(), ", "));
    }
  }

  void Sweep(v1::SweepSpec* spec) {
    Common(*spec);
    if (spec->has_runtime()) Runtime(spec->runtime());
    if (spec->max_parallel() < 0)
      (root_ / "max_parallel").Refuse(spec->max_parallel(), " is negative");
    if (spec->models().empty()) (root_ / "models").Refuse("is empty; name at least one model");
    const int models = (root_ / "models").UpTo(kModelsMax, spec->models_size());
    for (int i = 0; i < models; ++i) Model((root_ / "models")[i], spec->models(i));
    if (spec->variants().empty()) (root_ / "variants").Refuse("is empty; name at least one method");
    const int variants = (root_ / "variants").UpTo(kVariantsMax, spec->variants_size());
    if (spec->has_calibration()) CalibrationNumbers(root_ / "calibration", spec->calibration());
    for (int i = 0; i < variants; ++i) {
      Quantization((root_ / "variants")[i], spec->mutable_variants(i));
    }
    Tasks(root_ / "tasks", spec->mutable_tasks());
    if (spec->has_benchmark()) Benchmark(root_ / "benchmark", spec->mutable_benchmark());
  }

 private:
  // Checks the kind's message and returns its name.
  const char* Kind(v1::JobSpec* spec) {
    switch (spec->kind_case()) {
      case v1::JobSpec::kQuantize:
        Model(root_ / "quantize" / "model", spec->quantize().model());
        Quantization(root_ / "quantize", spec->mutable_quantize());
        if (spec->quantize().shard_bytes() < 0)
          (root_ / "quantize" / "shard_bytes").Refuse("is negative");
        return "quantize";
      case v1::JobSpec::kEvaluate:
        Model(root_ / "evaluate" / "model", spec->evaluate().model());
        if (spec->evaluate().tasks().empty())
          (root_ / "evaluate" / "tasks").Refuse("is empty; name a task");
        Tasks(root_ / "evaluate" / "tasks", spec->mutable_evaluate()->mutable_tasks());
        (root_ / "evaluate" / "batch_size").Range(spec->evaluate().batch_size(), 0, kBatchMax);
        return "evaluate";
      case v1::JobSpec::kBenchmark:
        Model(root_ / "benchmark" / "model", spec->benchmark().model());
        if (!spec->benchmark().baseline().empty()) {
          Model(root_ / "benchmark" / "baseline", spec->benchmark().baseline());
        }
        Benchmark(root_ / "benchmark", spec->mutable_benchmark());
        return "benchmark";
      case v1::JobSpec::kVerify:
        Model(root_ / "verify" / "model", spec->verify().model());
        return "verify";
      case v1::JobSpec::kCompare:
        Variants(root_ / "compare" / "variants", spec->compare().variants());
        return "compare";
      case v1::JobSpec::kReport:
        Variants(root_ / "report" / "variants", spec->report().variants());
        return "report";
      case v1::JobSpec::KIND_NOT_SET:
        root_.Refuse("has none of quantize, evaluate, benchmark, verify, compare, report");
    }
    return nullptr;
  }

  template <typename Spec>
  void Common(const Spec& spec) {
    if (spec.display_name().size() > kDisplayNameBytesMax) {
      (root_ / "display_name")
          .Refuse("has ", spec.display_name().size(), " bytes; at most ", kDisplayNameBytesMax);
    }
    (root_ / "priority").Range(spec.priority(), -kPriorityMax, kPriorityMax);
    Duration(root_ / "limits" / "queue_time", spec.limits().has_queue_time(),
             spec.limits().queue_time());
    Duration(root_ / "limits" / "run_time", spec.limits().has_run_time(), spec.limits().run_time());
    Duration(root_ / "limits" / "no_progress_time", spec.limits().has_no_progress_time(),
             spec.limits().no_progress_time());
    Duration(root_ / "retry" / "backoff", spec.retry().has_backoff(), spec.retry().backoff());
    Duration(root_ / "retry" / "backoff_max", spec.retry().has_backoff_max(),
             spec.retry().backoff_max());
    (root_ / "retry" / "max_attempts").Range(spec.retry().max_attempts(), 0, 100);
    const std::string& device = spec.requirements().device();
    if (!device.empty() && device != "cpu" && device != "cuda") {
      (root_ / "requirements" / "device")
          .Refuse("\"", device.substr(0, 50), "\" is none of cpu, cuda");
    }
    NotNegative(root_ / "requirements" / "device_memory_bytes",
                spec.requirements().device_memory_bytes());
    NotNegative(root_ / "requirements" / "host_memory_bytes",
                spec.requirements().host_memory_bytes());
    if (known_ && device == "cuda" && !HasCuda()) {
      (root_ / "requirements" / "device")
          .Warn("no worker with a GPU is registered; the job waits for one");
    }
  }

  bool HasCuda() const {
    return std::any_of(catalog_.devices().begin(), catalog_.devices().end(),
                       [](const v1::Device& device) { return device.type() == "cuda"; });
  }

  static void NotNegative(const Field& field, int64_t value) {
    if (value < 0) field.Refuse(value, " is negative");
  }

  static void Duration(const Field& field, bool present,
                       const google::protobuf::Duration& duration) {
    if (!present) return;
    const bool positive = duration.seconds() >= 0 && duration.nanos() >= 0 &&
                          duration.nanos() < 1'000'000'000 &&
                          (duration.seconds() > 0 || duration.nanos() > 0);
    if (!positive || duration.seconds() > kDurationSecondsMax) {
      field.Refuse("has to be longer than 0 s and at most a year; leave it out for the default");
    }
  }

  void Runtime(const v1::Runtime& runtime) const {
    const Field field = root_ / "runtime";
    if (!GpusNeeded(runtime.device()).has_value()) {
      (field / "device")
          .Refuse(
              "\"", runtime.device().substr(0, 50),
              "\" is none of auto, cpu, cuda, cuda:N, different ones as cuda:0,cuda:1, cuda:all");
    }
    static const std::set<std::string> kDtypes = {"", "auto", "float32", "bfloat16", "float16"};
    if (kDtypes.count(runtime.dtype()) == 0) {
      (field / "dtype")
          .Refuse("\"", runtime.dtype().substr(0, 50),
                  "\" is none of auto, float32, bfloat16, float16");
    }
    NotNegative(field / "device_memory_bytes", runtime.device_memory_bytes());
    NotNegative(field / "host_memory_bytes", runtime.host_memory_bytes());
    (field / "threads").Range(runtime.threads(), 0, kThreadsMax);
  }

  static void JobReference(const Field& field, const std::string& job) {
    if (!ParseJobReference(job, kDefaultTenant).ok()) {
      field.Refuse("\"", job.substr(0, 100),
                   "\" is neither jobs/{job} nor tenants/{tenant}/jobs/{job}");
    }
  }

  // A reference of the tenant's own store is checked by its form; whether it is there is the
  // queue's business.
  static void Reference(const Field& field, const std::string& text) {
    if (text.size() > kModelBytesMax)
      return field.Refuse("is longer than ", kModelBytesMax, " bytes");
    if (text.find('\0') != std::string::npos || text.find('\n') != std::string::npos) {
      return field.Refuse("holds a control character");
    }
    if (absl::StartsWith(text, "artifacts/") && !IsSha256Hex(text.substr(10))) {
      field.Refuse("\"", text.substr(0, 100), "\" is not artifacts/{sha256}");
    }
    if (absl::StartsWith(text, "jobs/") && !IsResourceId(text.substr(5))) {
      field.Refuse("\"", text.substr(0, 100), "\" is not jobs/{job}");
    }
  }

  static void Model(const Field& field, const std::string& model) {
    if (model.empty()) {
      return field.Refuse(
          "is empty; give a folder, a Hub name (org/name), jobs/{job} or artifacts/{sha256}");
    }
    Reference(field, model);
  }

  static void CalibrationNumbers(const Field& field, const v1::Calibration& calibration) {
    Reference(field / "source", calibration.source());
    (field / "sequences").Range(calibration.sequences(), 0, kSequencesMax);
    (field / "sequence_length").Range(calibration.sequence_length(), 0, kTokensMax);
    (field / "batch_size").Range(calibration.batch_size(), 0, kBatchMax);
  }

  // A QuantizeSpec or a VariantSpec.
  template <typename Spec>
  void Quantization(const Field& field, Spec* spec) {
    if (spec->has_calibration()) CalibrationNumbers(field / "calibration", spec->calibration());
    const int overrides = (field / "overrides").UpTo(kOverridesMax, spec->overrides_size());
    for (int i = 0; i < overrides; ++i) {
      Pattern((field / "overrides")[i] / "pattern", spec->overrides(i).pattern());
    }
    if (spec->method().empty()) {
      return (field / "method")
          .Refuse("is empty", known_ ? Suggestion("", NamesOf(catalog_.methods())) : "");
    }
    if (!known_) return;
    const v1::MethodInfo* method = Find(catalog_.methods(), spec->method());
    if (method == nullptr) {
      return (field / "method")
          .Refuse("there is no method \"", spec->method().substr(0, 60), "\"",
                  Suggestion(spec->method(), NamesOf(catalog_.methods())));
    }
    const OptionRules rules = {
        .owner = "method " + method->name(), .known = &method->options(), .lists = sweep_};
    CheckOptions(field / "options", rules, spec->options());
    for (int i = 0; i < overrides; ++i) {
      OptionRules plain = rules;
      plain.lists = false;
      CheckOptions((field / "overrides")[i] / "options", plain, spec->overrides(i).options());
    }
    Format(field / "format", *method, spec->mutable_format());
    if (sweep_) return;
    FillOptions(method->options(), spec->mutable_options());
    if (method->needs_calibration()) FillCalibration(spec->mutable_calibration());
  }

  void Format(const Field& field, const v1::MethodInfo& method, std::string* format) const {
    if (format->empty()) {
      if (!method.formats().empty()) *format = method.formats(0);
      return;
    }
    const std::vector<std::string> formats(method.formats().begin(), method.formats().end());
    if (std::count(formats.begin(), formats.end(), *format) > 0) return;
    field.Refuse("method ", method.name(), " cannot be written as \"", format->substr(0, 60), "\"",
                 Suggestion(*format, formats));
  }

  static void FillCalibration(v1::Calibration* calibration) {
    if (calibration->text_field().empty()) calibration->set_text_field("text");
    if (calibration->sequences() == 0) calibration->set_sequences(128);
  }

  static void Pattern(const Field& field, const std::string& pattern) {
    if (pattern.empty()) return field.Refuse("is empty; \".*\" matches every module");
    if (pattern.size() > kPatternBytesMax)
      return field.Refuse("is longer than ", kPatternBytesMax, " bytes");
    try {
      const std::regex compiled(pattern, std::regex::ECMAScript);
    } catch (const std::regex_error& error) {
      field.Refuse("\"", pattern.substr(0, 100),
                   "\" is no ECMAScript regular expression: ", error.what());
    }
  }

  void Tasks(const Field& field, google::protobuf::RepeatedPtrField<v1::TaskSpec>* tasks) {
    const int count = field.UpTo(kTasksMax, tasks->size());
    for (int i = 0; i < count; ++i) {
      v1::TaskSpec& task = (*tasks)[i];
      const Field here = field[i];
      (here / "limit").Range<int64_t>(task.limit(), 0, INT32_MAX);
      Reference(here / "data", task.data());
      if (task.name().empty()) {
        (here / "name").Refuse("is empty", known_ ? Suggestion("", NamesOf(catalog_.tasks())) : "");
        continue;
      }
      if (!known_) continue;
      const v1::TaskInfo* info = Find(catalog_.tasks(), task.name());
      if (info == nullptr) {
        (here / "name")
            .Refuse("there is no task \"", task.name().substr(0, 60), "\"",
                    Suggestion(task.name(), NamesOf(catalog_.tasks())));
        continue;
      }
      if (info->needs_data() && task.data().empty()) {
        (here / "data").Refuse("task ", info->name(), " has no data of its own; name a file");
      }
      CheckOptions(here / "options", {.owner = "task " + info->name(), .known = &info->options()},
                   task.options());
      FillOptions(info->options(), task.mutable_options());
    }
  }

  static void Benchmark(const Field& field, v1::BenchmarkSpec* spec) {
    if (spec->batch_sizes().empty()) spec->add_batch_sizes(1);
    if (spec->prompt_lengths().empty()) spec->add_prompt_lengths(128);
    if (spec->decode_tokens() == 0) spec->set_decode_tokens(32);
    if (spec->repetitions() == 0) spec->set_repetitions(5);
    if (spec->warmup() == 0) spec->set_warmup(1);
    const int batches = (field / "batch_sizes").UpTo(kSizesMax, spec->batch_sizes_size());
    for (int i = 0; i < batches; ++i) {
      (field / "batch_sizes")[i].Range(spec->batch_sizes(i), 1, kBatchMax);
    }
    const int lengths = (field / "prompt_lengths").UpTo(kSizesMax, spec->prompt_lengths_size());
    for (int i = 0; i < lengths; ++i) {
      (field / "prompt_lengths")[i].Range(spec->prompt_lengths(i), 1, kTokensMax);
    }
    (field / "decode_tokens").Range(spec->decode_tokens(), 1, kTokensMax);
    (field / "repetitions").Range(spec->repetitions(), 1, 10'000);
    (field / "warmup").Range(spec->warmup(), 0, 10'000);
  }

  static void Variants(
      const Field& field,
      const google::protobuf::RepeatedPtrField<v1::CompareSpec::Variant>& variants) {
    if (variants.empty()) field.Refuse("is empty; name at least one variant");
    std::set<std::string> names;
    int baselines = 0;
    const int count = field.UpTo(kReportedMax, variants.size());
    for (int i = 0; i < count; ++i) {
      const v1::CompareSpec::Variant& variant = variants[i];
      if (variant.name().empty()) (field[i] / "name").Refuse("is empty");
      if (!names.insert(variant.name()).second) {
        (field[i] / "name").Refuse("\"", variant.name().substr(0, 60), "\" is there twice");
      }
      if (variant.jobs().empty())
        (field[i] / "jobs").Refuse("is empty; name the jobs that describe the variant");
      const int jobs = (field[i] / "jobs").UpTo(kJobsMax, variant.jobs_size());
      for (int j = 0; j < jobs; ++j) {
        JobReference((field[i] / "jobs")[j], variant.jobs(j));
      }
      baselines += variant.baseline() ? 1 : 0;
    }
    if (baselines > 1) field.Refuse("has ", baselines, " baselines; at most one");
  }

  const v1::Catalog& catalog_;
  const bool known_;  // Whether there is a catalog.
  const bool sweep_;
  const Field root_;
};

}  // namespace

void ResolveJobSpec(const v1::Catalog& catalog, v1::JobSpec* spec, SpecFindings* findings) {
  Resolver(catalog, findings, /*sweep=*/false).Job(spec);
}

void ResolveSweepSpec(const v1::Catalog& catalog, v1::SweepSpec* spec, SpecFindings* findings) {
  Resolver(catalog, findings, /*sweep=*/true).Sweep(spec);
}

}  // namespace quantd
