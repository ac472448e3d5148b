// quant-engine canary: whether the device computes. The agent asks before it takes the next job.
#include <memory>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "workers/engine/commands/commands.h"
#include "workers/engine/commands/local_job.h"
#include "workers/engine/tensor/device.h"

namespace quantd::engine {

void AddCanary(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("canary", "Check that the device computes");
  auto device_name = std::make_shared<std::string>();
  command->add_option("--device", *device_name, "auto, cpu, cuda or cuda:N");
  command->callback([device_name, exit_code] {
    const absl::StatusOr<at::Device> device = SelectDevice(*device_name);
    const absl::Status status = device.ok() ? Canary(*device) : device.status();
    *exit_code = status.ok() ? 0 : PrintError(status);
    if (status.ok()) absl::PrintF("%s is sane\n", device->str());
  });
}

}  // namespace quantd::engine
