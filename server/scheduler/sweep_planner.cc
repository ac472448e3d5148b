// An evaluation's failure does not stop the benchmark: only what a job reads is a dependency on
// success, the order beyond that is kept by waiting for the end.
#include "server/scheduler/sweep_planner.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/scheduler/errors.h"

namespace quantd {
namespace {

using Value = google::protobuf::Value;

struct OptionName {
  const char* option;
  const char* abbreviation;
};
// Always part of a name when given; the first in the name first.
constexpr OptionName kNamedOptions[] = {{"bits", "b"}, {"group_size", "g"}};

// A name is also a folder's and a row's title.
std::string Sanitize(absl::string_view text) {
  std::string clean;
  for (const char c : text) clean += absl::ascii_isalnum(c) || c == '.' || c == '_' ? c : '-';
  return clean.substr(0, 40);
}

std::string ValueWord(const Value& value) {
  switch (value.kind_case()) {
    case Value::kNumberValue:
      return absl::StrCat(value.number_value());
    case Value::kStringValue:
      return Sanitize(value.string_value());
    case Value::kBoolValue:
      return value.bool_value() ? "on" : "off";
    default:
      return "x";
  }
}

// The options in the order of names: the abbreviated ones, then the others by name.
std::vector<std::string> OrderedOptions(const google::protobuf::Struct& options) {
  std::vector<std::string> order;
  for (const OptionName& named : kNamedOptions) {
    if (options.fields().contains(named.option)) order.push_back(named.option);
  }
  std::set<std::string> rest;
  for (const auto& [name, value] : options.fields()) rest.insert(name);
  for (const std::string& name : order) rest.erase(name);
  order.insert(order.end(), rest.begin(), rest.end());
  return order;
}

std::string NamePart(const std::string& option, const Value& value) {
  for (const OptionName& named : kNamedOptions) {
    if (option == named.option) return absl::StrCat("-", named.abbreviation, ValueWord(value));
  }
  return absl::StrCat("-", Sanitize(option), "-", ValueWord(value));
}

bool IsNamedOption(const std::string& option) {
  return std::any_of(std::begin(kNamedOptions), std::end(kNamedOptions),
                     [&](const OptionName& named) { return option == named.option; });
}

// Everything that one sweep's jobs have in common while they are planned.
class Planner {
 public:
  Planner(const v1::SweepSpec& spec, const std::function<std::string()>& new_id)
      : spec_(spec), new_id_(new_id) {}

  absl::StatusOr<SweepPlan> Plan();

 private:
  absl::Status Expand();
  void AddBaseline(const std::string& model);
  void AddVariant(const std::string& model, const v1::VariantSpec& variant);
  void AddMeasurements(const std::string& model, const std::string& verify, v1::Sweep::Cell* cell);
  void AddComparison(v1::Sweep::Cell* cell);
  void AddReport();
  v1::JobSpec NewComparison(const std::string& name) const;
  void AddCompared(const v1::Sweep::Cell& cell,
                   google::protobuf::RepeatedPtrField<v1::CompareSpec::Variant>* variants,
                   v1::JobSpec* spec) const;
  v1::JobSpec NewSpec(const v1::Sweep::Cell& cell, const std::string& kind) const;
  // Returns the job's reference.
  std::string AddJob(std::string kind, v1::JobSpec spec, v1::Sweep::Cell* cell);
  v1::Sweep::Cell NewCell(const std::string& name, const std::string& model) const;

  const v1::SweepSpec& spec_;
  const std::function<std::string()>& new_id_;
  std::vector<v1::VariantSpec> variants_;
  SweepPlan plan_;
  // The cell that the variants of the model at hand are held against; none where nothing is
  // measured.
  std::optional<v1::Sweep::Cell> baseline_;
};

std::string Basename(const std::string& model) {
  std::string trimmed = model;
  while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.pop_back();
  return trimmed.substr(trimmed.rfind('/') + 1);
}

void WaitFor(const std::string& job, v1::Dependency::Condition condition, v1::JobSpec* spec) {
  if (job.empty()) return;
  v1::Dependency& dependency = *spec->add_dependencies();
  dependency.set_job(job);
  dependency.set_condition(condition);
}

absl::Status Planner::Expand() {
  std::map<std::string, std::string> fields;  // By variant name.
  for (int i = 0; i < spec_.variants_size(); ++i) {
    const std::string field = absl::StrCat("spec.variants[", i, "]");
    QD_ASSIGN_OR_RETURN(auto expanded, ExpandVariant(spec_.variants(i), field));
    for (v1::VariantSpec& variant : expanded) {
      const auto [other, is_new] = fields.emplace(variant.name(), field);
      if (!is_new) {
        return FieldError(absl::StrCat(field, ".name"),
                          absl::StrCat("\"", variant.name(), "\" is the name of a variant of ",
                                       other->second, " too; give one of them a name"));
      }
      variants_.push_back(std::move(variant));
    }
    if (variants_.size() * spec_.models_size() > kSweepCellsMax) {
      return FieldError("spec.variants",
                        absl::StrCat("more than ", kSweepCellsMax,
                                     " cells (variants times models); split the sweep"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SweepPlan> Planner::Plan() {
  if (spec_.models().empty()) return FieldError("spec.models", "is empty; name at least one model");
  if (spec_.models_size() > kSweepModelsMax) {
    return FieldError("spec.models", absl::StrCat("has ", spec_.models_size(), " entries; at most ",
                                                  kSweepModelsMax));
  }
  if (spec_.variants().empty()) {
    return FieldError("spec.variants", "is empty; name at least one method");
  }
  if (!spec_.benchmark().model().empty()) {
    return FieldError("spec.benchmark.model", "stays empty: every variant is benchmarked");
  }
  std::set<std::string> models;
  for (int i = 0; i < spec_.models_size(); ++i) {
    const std::string field = absl::StrCat("spec.models[", i, "]");
    if (spec_.models(i).empty()) return FieldError(field, "is empty");
    if (!models.insert(spec_.models(i)).second) {
      return FieldError(field, absl::StrCat("\"", spec_.models(i), "\" is there twice"));
    }
  }
  QD_RETURN_IF_ERROR(Expand());
  for (const std::string& model : spec_.models()) {
    AddBaseline(model);
    for (const v1::VariantSpec& variant : variants_) AddVariant(model, variant);
  }
  AddReport();
  return std::move(plan_);
}

v1::Sweep::Cell Planner::NewCell(const std::string& name, const std::string& model) const {
  v1::Sweep::Cell cell;
  cell.set_name(name);
  cell.set_model(model);
  return cell;
}

v1::JobSpec Planner::NewSpec(const v1::Sweep::Cell& cell, const std::string& kind) const {
  v1::JobSpec spec;
  spec.set_display_name(absl::StrCat(Basename(cell.model()).substr(0, 80), " ",
                                     cell.name().substr(0, 80), " ", kind));
  spec.set_priority(spec_.priority());
  *spec.mutable_labels() = spec_.labels();
  *spec.mutable_requirements() = spec_.requirements();
  if (spec_.has_limits()) *spec.mutable_limits() = spec_.limits();
  if (spec_.has_retry()) *spec.mutable_retry() = spec_.retry();
  if (spec_.has_runtime()) *spec.mutable_runtime() = spec_.runtime();
  *spec.mutable_secrets() = spec_.secrets();
  spec.set_fresh(spec_.fresh());
  return spec;
}

std::string Planner::AddJob(std::string kind, v1::JobSpec spec, v1::Sweep::Cell* cell) {
  plan_.jobs.push_back({.id = new_id_(), .kind = std::move(kind), .spec = std::move(spec)});
  const PlannedJob& job = plan_.jobs.back();
  const std::string reference = "jobs/" + job.id;
  if (cell != nullptr) {
    cell->add_stages()->set_kind(job.kind);
    cell->mutable_stages()->rbegin()->set_job(reference);
  }
  return reference;
}

void Planner::AddMeasurements(const std::string& model, const std::string& verify,
                              v1::Sweep::Cell* cell) {
  std::string evaluate;
  if (!spec_.tasks().empty()) {
    v1::JobSpec spec = NewSpec(*cell, "evaluate");
    spec.mutable_evaluate()->set_model(model);
    *spec.mutable_evaluate()->mutable_tasks() = spec_.tasks();
    WaitFor(verify, v1::Dependency::SUCCEEDED, &spec);
    evaluate = AddJob("evaluate", std::move(spec), cell);
  }
  if (spec_.has_benchmark()) {
    v1::JobSpec spec = NewSpec(*cell, "benchmark");
    *spec.mutable_benchmark() = spec_.benchmark();
    spec.mutable_benchmark()->set_model(model);
    if (cell->baseline()) {
      spec.mutable_benchmark()->clear_baseline();
    } else if (spec_.benchmark().baseline().empty()) {
      spec.mutable_benchmark()->set_baseline(cell->model());
    }
    WaitFor(verify, v1::Dependency::SUCCEEDED, &spec);
    WaitFor(evaluate, v1::Dependency::FINISHED, &spec);
    AddJob("benchmark", std::move(spec), cell);
  }
}

void Planner::AddBaseline(const std::string& model) {
  v1::Sweep::Cell cell = NewCell("baseline", model);
  cell.set_baseline(true);
  AddMeasurements(model, "", &cell);
  baseline_.reset();
  if (cell.stages().empty()) return;
  baseline_ = cell;
  plan_.cells.push_back(std::move(cell));
}

void Planner::AddVariant(const std::string& model, const v1::VariantSpec& variant) {
  v1::Sweep::Cell cell = NewCell(variant.name(), model);
  v1::JobSpec spec = NewSpec(cell, "quantize");
  v1::QuantizeSpec& quantize = *spec.mutable_quantize();
  quantize.set_model(model);
  quantize.set_method(variant.method());
  *quantize.mutable_options() = variant.options();
  quantize.set_format(variant.format());
  *quantize.mutable_overrides() = variant.overrides();
  if (variant.has_calibration() || spec_.has_calibration()) {
    *quantize.mutable_calibration() =
        variant.has_calibration() ? variant.calibration() : spec_.calibration();
  }
  const std::string written = AddJob("quantize", std::move(spec), &cell);
  std::string verify;
  if (!spec_.skip_verify()) {
    v1::JobSpec verify_spec = NewSpec(cell, "verify");
    verify_spec.mutable_verify()->set_model(written);
    WaitFor(written, v1::Dependency::SUCCEEDED, &verify_spec);
    verify = AddJob("verify", std::move(verify_spec), &cell);
  }
  AddMeasurements(written, verify, &cell);
  if (baseline_) AddComparison(&cell);
  plan_.cells.push_back(std::move(cell));
}

// Waits for a cell's jobs, whatever becomes of them, and compares their results.
void Planner::AddCompared(const v1::Sweep::Cell& cell,
                          google::protobuf::RepeatedPtrField<v1::CompareSpec::Variant>* variants,
                          v1::JobSpec* spec) const {
  v1::CompareSpec::Variant& variant = *variants->Add();
  variant.set_name(spec_.models_size() == 1
                       ? cell.name()
                       : absl::StrCat(Basename(cell.model()), "/", cell.name()));
  variant.set_baseline(cell.baseline());
  for (const v1::Sweep::Stage& stage : cell.stages()) {
    if (stage.kind() == kCompareStage) continue;
    variant.add_jobs(stage.job());
    WaitFor(stage.job(), v1::Dependency::FINISHED, spec);
  }
}

v1::JobSpec Planner::NewComparison(const std::string& name) const {
  v1::JobSpec spec;
  spec.set_display_name(name);
  spec.set_priority(spec_.priority());
  *spec.mutable_labels() = spec_.labels();
  *spec.mutable_requirements()->mutable_worker_labels() = spec_.requirements().worker_labels();
  if (spec_.has_retry()) *spec.mutable_retry() = spec_.retry();
  return spec;
}

void Planner::AddComparison(v1::Sweep::Cell* cell) {
  v1::JobSpec spec = NewComparison(NewSpec(*cell, kCompareStage).display_name());
  auto* variants = spec.mutable_compare()->mutable_variants();
  AddCompared(*baseline_, variants, &spec);
  AddCompared(*cell, variants, &spec);
  AddJob(kCompareStage, std::move(spec), cell);
}

void Planner::AddReport() {
  v1::JobSpec spec = NewComparison(absl::StrCat(
      spec_.display_name().empty() ? "sweep" : spec_.display_name().substr(0, 180), " report"));
  spec.mutable_report()->set_title(spec_.display_name());
  for (const v1::Sweep::Cell& cell : plan_.cells) {
    AddCompared(cell, spec.mutable_report()->mutable_variants(), &spec);
  }
  AddJob("report", std::move(spec), nullptr);
  plan_.report_id = plan_.jobs.back().id;
}

}  // namespace

absl::StatusOr<std::vector<v1::VariantSpec>> ExpandVariant(const v1::VariantSpec& variant,
                                                           const std::string& field) {
  if (variant.method().empty()) {
    return FieldError(absl::StrCat(field, ".method"), "is empty; see `quantctl methods`");
  }
  v1::VariantSpec start = variant;
  const bool named = !variant.name().empty();
  if (!named) start.set_name(variant.method());
  std::vector<v1::VariantSpec> expanded = {start};
  for (const std::string& option : OrderedOptions(variant.options())) {
    const Value& value = variant.options().fields().at(option);
    const bool is_list = value.has_list_value();
    const std::string path = absl::StrCat(field, ".options.", option);
    if (is_list && value.list_value().values().empty()) return FieldError(path, "is an empty list");
    const int choices = is_list ? value.list_value().values_size() : 1;
    if (expanded.size() * choices > kSweepCellsMax) {
      return FieldError(
          path, absl::StrCat("makes more than ", kSweepCellsMax, " variants; split the sweep"));
    }
    std::vector<v1::VariantSpec> next;
    for (const v1::VariantSpec& base : expanded) {
      for (int i = 0; i < choices; ++i) {
        const Value& choice = is_list ? value.list_value().values(i) : value;
        if (is_list && choice.has_list_value()) {
          return FieldError(path, "is a list of lists; a list's elements are the values to try");
        }
        v1::VariantSpec& one = next.emplace_back(base);
        (*one.mutable_options()->mutable_fields())[option] = choice;
        if (is_list || (!named && IsNamedOption(option))) {
          one.set_name(one.name() + NamePart(option, choice));
        }
      }
    }
    expanded = std::move(next);
  }
  return expanded;
}

absl::StatusOr<SweepPlan> PlanSweep(const v1::SweepSpec& spec,
                                    const std::function<std::string()>& new_id) {
  return Planner(spec, new_id).Plan();
}

}  // namespace quantd
