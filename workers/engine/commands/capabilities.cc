// quant-engine capabilities: what this engine can do, as the Catalog message in proto3-JSON form.
#include <torch/headeronly/version.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "workers/engine/commands/commands.h"
#include "workers/engine/evaluation/task.h"
#include "workers/engine/formats/format.h"
#include "workers/engine/job/options.h"
#include "workers/engine/methods/method.h"
#include "workers/engine/models/architecture.h"
#include "workers/engine/tensor/device.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

json OptionList(absl::Span<const OptionInfo> options) {
  json list = json::array();
  for (const OptionInfo& option : options) list.push_back(OptionInfoToJson(option));
  return list;
}

json MethodList() {
  json list = json::array();
  for (const Method* method : Methods()) {
    const MethodInfo& info = method->Info();
    list.push_back({{"name", info.name},
                    {"summary", info.summary},
                    {"options", OptionList(info.options)},
                    {"formats", info.formats},
                    {"needsCalibration", info.needs_calibration},
                    {"reference", info.reference}});
  }
  return list;
}

json FormatList() {
  json list = json::array();
  for (const Format* format : Formats()) {
    list.push_back({{"name", format->Info().name},
                    {"summary", format->Info().summary},
                    {"loaders", format->Info().loaders}});
  }
  return list;
}

// A task appears under its name and under its aliases: any may stand in a spec.
json TaskList() {
  json list = json::array();
  for (const Task* task : Tasks()) {
    std::vector<std::string> names = task->aliases;
    names.insert(names.begin(), task->name);
    for (const std::string& name : names) {
      list.push_back({{"name", name},
                      {"summary", task->summary},
                      {"options", OptionList(task->options)},
                      {"metrics", task->metrics},
                      {"needsData", task->needs_data}});
    }
  }
  return list;
}

json ArchitectureList() {
  json list = json::array();
  for (const Architecture& row : Architectures()) {
    list.push_back({{"name", std::string(row.name)},
                    {"summary", absl::StrCat("model_type ", row.model_type)}});
  }
  return list;
}

json DeviceList() {
  json list = json::array();
  for (const DeviceInfo& device : ListDevices()) {
    list.push_back({{"type", device.type},
                    {"name", device.name},
                    {"memoryBytes", absl::StrCat(device.memory_bytes)},
                    {"computeCapability", device.compute_capability},
                    {"driverVersion", device.driver_version}});
  }
  return list;
}

json Libraries() {
  return {
      {"libtorch", TORCH_VERSION},
      {"nlohmann-json", absl::StrCat(NLOHMANN_JSON_VERSION_MAJOR, ".", NLOHMANN_JSON_VERSION_MINOR,
                                     ".", NLOHMANN_JSON_VERSION_PATCH)},
      {"cli11", CLI11_VERSION},
      {"gcc", __VERSION__}};
}

}  // namespace

void AddCapabilities(CLI::App& app, int* exit_code) {
  CLI::App* command =
      app.add_subcommand("capabilities", "Print methods, formats, tasks and devices as JSON");
  command->callback([exit_code] {
    const json catalog = {
        {"engineVersion", QUANTD_VERSION},
        {"kinds", {"quantize", "evaluate", "benchmark", "verify", "compare", "report"}},
        {"methods", MethodList()},
        {"formats", FormatList()},
        {"tasks", TaskList()},
        {"architectures", ArchitectureList()},
        {"devices", DeviceList()},
        {"libraries", Libraries()}};
    absl::PrintF("%s\n", catalog.dump(2, ' ', false, json::error_handler_t::replace));
    *exit_code = 0;
  });
}

}  // namespace quantd::engine
