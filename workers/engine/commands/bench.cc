// quant-engine bench kernels: how fast the GPU kernels are here, beside cuBLAS in the same run.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "kernels/kernel_times.h"
#include "kernels/table.h"
#include "workers/engine/commands/commands.h"
#include "workers/engine/commands/local_job.h"
#include "workers/engine/tensor/device.h"

namespace quantd::engine {
namespace {

absl::StatusOr<std::pair<int64_t, int64_t>> ParseShape(const std::string& text) {
  std::pair<int64_t, int64_t> shape;
  const std::vector<std::string> sides = absl::StrSplit(text, 'x');
  if (sides.size() == 2 && absl::SimpleAtoi(sides[0], &shape.first) &&
      absl::SimpleAtoi(sides[1], &shape.second) && shape.first > 0 && shape.second > 0 &&
      shape.second % 128 == 0) {
    return shape;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--shape ", text, ": must be OUTPUTSxINPUTS with inputs a multiple of 128, as 8192x8192"));
}

int Bench(const kernels::DeviceBenchOptions& options) {
  // Brings libtorch's CUDA half along, and with it cuBLAS.
  const absl::StatusOr<at::Device> device = SelectDevice("cuda");
  if (!device.ok()) return PrintError(device.status());
  std::string why;
  const kernels::CudaModule* module = kernels::LoadCudaModule(&why);
  if (module == nullptr) return PrintError(absl::FailedPreconditionError(why));
  absl::PrintF("%s, read bandwidth %.2f TB/s\n", module->device.describe(),
               module->device.read_bandwidth() * 1e-12);
  absl::PrintF("%-18s %12s %6s %10s %9s %11s %8s\n", "operation", "weight", "m", "us", "x fp16",
               "% bandwidth", "TFLOP/s");
  const char* error = kernels::BenchDevice(options, [](const kernels::DeviceBenchRow& row) {
    absl::PrintF("%-18s %12s %6d %10.2f %9.2f %11.0f %8.0f\n", row.operation,
                 absl::StrCat(row.rows, "x", row.columns), row.m, row.seconds * 1e6,
                 row.baseline_seconds / row.seconds, row.bandwidth_share * 100,
                 2e-12 * static_cast<double>(row.m * row.rows * row.columns) / row.seconds);
    std::fflush(stdout);
  });
  if (error != nullptr) return PrintError(absl::InternalError(error));
  return 0;
}

}  // namespace

void AddBench(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("bench", "Measure single parts of the engine");
  command->require_subcommand(1);
  CLI::App* kernels = command->add_subcommand("kernels",
                                              "The GPU kernels over shapes and batch sizes, beside "
                                              "cuBLAS (rotations: beside a copy) in the same run");
  struct Flags {
    kernels::DeviceBenchOptions options;
    std::vector<std::string> shapes;
  };
  auto flags = std::make_shared<Flags>();
  kernels->add_option("--shape", flags->shapes, "OUTPUTSxINPUTS; may be repeated")
      ->allow_extra_args(false);
  kernels->add_option("-m,--batch", flags->options.batches, "Rows of input; may be repeated")
      ->allow_extra_args(false);
  kernels->add_option("--only", flags->options.only, "Operations whose name contains this");
  kernels->callback([flags, exit_code] {
    for (const std::string& text : flags->shapes) {
      absl::StatusOr<std::pair<int64_t, int64_t>> shape = ParseShape(text);
      if (!shape.ok()) {
        *exit_code = PrintUsageError(shape.status());
        return;
      }
      flags->options.shapes.push_back(*shape);
    }
    *exit_code = Bench(flags->options);
  });
}

}  // namespace quantd::engine
