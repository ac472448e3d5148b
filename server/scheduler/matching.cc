// Requirements are checked from the coarse to the fine, so that the reason given is the one that
// helps.
#include "server/scheduler/matching.h"

#include <algorithm>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "proto/device_names.h"
#include "server/scheduler/resources.h"

namespace quantd {
namespace {

template <typename Infos>
const typename Infos::value_type* FindByName(const Infos& infos, const std::string& name) {
  const auto found = std::find_if(infos.begin(), infos.end(),
                                  [&](const auto& info) { return info.name() == name; });
  return found == infos.end() ? nullptr : &*found;
}

std::string UnmetKind(const v1::JobSpec& needs, const v1::Catalog& catalog) {
  const std::string kind = KindOf(needs);
  if (std::find(catalog.kinds().begin(), catalog.kinds().end(), kind) == catalog.kinds().end()) {
    return absl::StrCat("does \"", kind, "\" jobs");
  }
  if (needs.has_quantize()) {
    const auto* method = FindByName(catalog.methods(), needs.quantize().method());
    if (method == nullptr) return absl::StrCat("offers method \"", needs.quantize().method(), "\"");
    const std::string& format = needs.quantize().format();
    const auto& formats = method->formats();
    if (!format.empty() && std::find(formats.begin(), formats.end(), format) == formats.end()) {
      return absl::StrCat("writes \"", method->name(), "\" in format \"", format, "\"");
    }
  }
  for (const v1::TaskSpec& task : needs.evaluate().tasks()) {
    if (FindByName(catalog.tasks(), task.name()) == nullptr) {
      return absl::StrCat("offers task \"", task.name(), "\"");
    }
  }
  return "";
}

std::string UnmetGpus(const v1::Runtime& needs, const v1::Catalog& catalog) {
  const auto gpus = std::count_if(catalog.devices().begin(), catalog.devices().end(),
                                  [](const v1::Device& device) { return device.type() == "cuda"; });
  const int needed = GpusNeeded(needs.device()).value_or(0);
  return needed > gpus ? absl::StrCat("has ", needed, " GPUs") : "";
}

std::string UnmetDevice(const v1::Requirements& needs, const v1::Catalog& catalog) {
  int64_t memory_bytes = -1;
  for (const v1::Device& device : catalog.devices()) {
    if (needs.device().empty() || device.type() == needs.device()) {
      memory_bytes = std::max(memory_bytes, device.memory_bytes());
    }
  }
  if (!needs.device().empty() && memory_bytes < 0) {
    return absl::StrCat("has a ", needs.device(), " device");
  }
  if (needs.device_memory_bytes() > std::max<int64_t>(0, memory_bytes)) {
    return absl::StrCat("has a ", needs.device(), needs.device().empty() ? "" : " ", "device with ",
                        FormatBytes(needs.device_memory_bytes()), " of memory");
  }
  return "";
}

}  // namespace

std::string NeedsKey(const v1::JobSpec& spec) {
  v1::JobSpec needs;
  switch (spec.kind_case()) {
    case v1::JobSpec::kQuantize:
      needs.mutable_quantize()->set_method(spec.quantize().method());
      needs.mutable_quantize()->set_format(spec.quantize().format());
      break;
    case v1::JobSpec::kEvaluate: {
      std::set<std::string> names;
      for (const v1::TaskSpec& task : spec.evaluate().tasks()) names.insert(task.name());
      needs.mutable_evaluate();
      for (const std::string& name : names) needs.mutable_evaluate()->add_tasks()->set_name(name);
      break;
    }
    case v1::JobSpec::kBenchmark:
      needs.mutable_benchmark();
      break;
    case v1::JobSpec::kVerify:
      needs.mutable_verify();
      break;
    case v1::JobSpec::kCompare:
      needs.mutable_compare();
      break;
    case v1::JobSpec::kReport:
      needs.mutable_report();
      break;
    case v1::JobSpec::KIND_NOT_SET:
      break;
  }
  *needs.mutable_requirements() = spec.requirements();
  if (needs.requirements().device().empty()) {
    // A job that insists on a device at run time needs a worker that has one.
    if (absl::StartsWith(spec.runtime().device(), "cuda")) {
      needs.mutable_requirements()->set_device("cuda");
    }
  }
  // One GPU is what every worker with a cuda device has.
  if (GpusNeeded(spec.runtime().device()).value_or(0) > 1) {
    needs.mutable_runtime()->set_device(spec.runtime().device());
  }
  return DeterministicBytes(needs);
}

std::string NeedsUnmetBy(const v1::JobSpec& needs, const v1::Worker& worker) {
  const v1::Requirements& requirements = needs.requirements();
  if (std::string unmet = UnmetKind(needs, worker.catalog()); !unmet.empty()) return unmet;
  if (std::string unmet = UnmetGpus(needs.runtime(), worker.catalog()); !unmet.empty())
    return unmet;
  if (std::string unmet = UnmetDevice(requirements, worker.catalog()); !unmet.empty()) return unmet;
  if (requirements.host_memory_bytes() > worker.host_memory_bytes()) {
    return absl::StrCat("has ", FormatBytes(requirements.host_memory_bytes()), " of host memory");
  }
  for (const auto& [key, value] : requirements.worker_labels()) {
    const auto label = worker.labels().find(key);
    if (label == worker.labels().end() || label->second != value) {
      return absl::StrCat("has the label ", key, "=", value);
    }
  }
  return "";
}

bool HasGpu(const v1::Worker& worker) {
  const auto& devices = worker.catalog().devices();
  return std::any_of(devices.begin(), devices.end(),
                     [](const v1::Device& device) { return device.type() == "cuda"; });
}

}  // namespace quantd
