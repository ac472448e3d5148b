// Times of the CUDA kernels against cuBLAS in the same run, for `quant-engine bench kernels`.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace quantd::kernels {

struct DeviceBenchOptions {
  // Weights [rows, columns]; empty: those of the documentation's table.
  std::vector<std::pair<int64_t, int64_t>> shapes;
  std::vector<int64_t> batches;  // Empty: 1, 4, 16, 64, 256, 1024, 4096.
  std::string only;              // Operations whose name contains this; empty: all.
};

struct DeviceBenchRow {
  std::string operation;  // "w4a16 g128", ...
  int64_t rows = 0, columns = 0, m = 0;
  double seconds = 0;
  double baseline_seconds = 0;  // cuBLAS binary16 on the same shape, or a copy of the same data.
  double bandwidth_share = 0;   // Bytes that must be moved / time / measured read bandwidth.
};

// Every weight is there so often that a round through all copies is larger than four times the L2,
// all within one CUDA graph; the median of 20 replays counts. Returns an error's text, or null.
const char* BenchDevice(const DeviceBenchOptions& options,
                        const std::function<void(const DeviceBenchRow&)>& report);

}  // namespace quantd::kernels
