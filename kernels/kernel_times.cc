// See kernel_times.h. Weights are random: multiplying zeros takes less power, so less time.
#include "kernels/kernel_times.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <set>

#include "kernels/table.h"

namespace quantd::kernels {
namespace {

constexpr int kReplays = 20;
constexpr int kLaunchesMin = 8;
constexpr int64_t kStepRowsMax = 32;  // Of input, for which a decode step's kernels are measured.

// Memory on the device, filled with copies of `block`.
class Buffer {
 public:
  Buffer(const DeviceOps& ops, int64_t bytes, const std::vector<uint8_t>& block)
      : ops_(ops), data_(static_cast<uint8_t*>(ops.allocate(bytes))) {
    if (data_ == nullptr) return;
    const auto size = static_cast<int64_t>(block.size());
    for (int64_t done = 0; done < bytes; done += size) {
      ops_.copy(data_ + done, block.data(), std::min(size, bytes - done));
    }
  }
  ~Buffer() { ops_.release(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  uint8_t* data() const { return data_; }

 private:
  const DeviceOps& ops_;
  uint8_t* data_;
};

// Random binary16 numbers of a weight's size.
std::vector<uint8_t> RandomHalves() {
  std::mt19937 random(1);
  std::vector<uint8_t> block(8 << 20);
  for (size_t i = 0; i < block.size(); i += 2) {
    const uint32_t bits = random();
    // Exponents of 2^-7 ... 2^-4.
    const auto half = static_cast<uint16_t>((bits & 0x83ff) | (8 + (bits >> 16) % 4) << 10);
    std::memcpy(&block[i], &half, 2);
  }
  return block;
}

std::vector<uint8_t> RandomCodes() {
  std::mt19937 random(2);
  std::vector<uint8_t> block(8 << 20);
  for (uint8_t& code : block) code = random() % 16;
  return block;
}

// One timed launch, with the copy of the weights of that index; an error's text, or null.
using Launch = std::function<const char*(int copy, void* stream)>;

struct Runner {
  const DeviceOps& ops;
  const char*& error;  // The first that a launch had.
  // Seconds of one launch.
  double Time(int64_t weight_bytes, const Launch& launch) const {
    struct Context {
      const Launch& launch;
      const char*& error;
      int launches, copies;
    } context = {launch, error, 0, Copies(weight_bytes)};
    context.launches = (kLaunchesMin + context.copies - 1) / context.copies * context.copies;
    const double seconds = ops.time_graph(
        [](void* raw, void* stream) {
          const auto& context = *static_cast<Context*>(raw);
          for (int i = 0; i < context.launches; ++i) {
            const char* failed = context.launch(i % context.copies, stream);
            if (context.error == nullptr) context.error = failed;
          }
        },
        &context, kReplays);
    return seconds / context.launches;
  }
  int Copies(int64_t weight_bytes) const {
    return static_cast<int>(4 * static_cast<int64_t>(ops.cache_bytes()) / weight_bytes + 1);
  }
};

struct Bench {
  const Backend& cuda;
  const DeviceOps& ops;
  const DeviceBenchOptions& options;
  const std::function<void(const DeviceBenchRow&)>& report;
  Runner runner;
  double bandwidth;
  const std::vector<uint8_t> halves = RandomHalves();
  const std::vector<uint8_t> codes = RandomCodes();

  bool Wanted(const std::string& operation) const {
    return operation.find(options.only) != std::string::npos;
  }
  void Shape(int64_t rows, int64_t columns, const std::vector<int64_t>& batches) const;
  void W8(int64_t rows, int64_t columns, const std::vector<int64_t>& batches,
          const std::vector<double>& baselines, const Buffer& input, const Buffer& output) const;
  void Hadamard(int64_t columns, int64_t m, const Buffer& matrix) const;
  void Step(int64_t rows, int64_t columns, const std::vector<int64_t>& batches,
            const std::vector<double>& baselines, const Buffer& input, const Buffer& output) const;
  void StepKeys(int64_t m) const;
  void W4(const char* name, W4Kind kind, int64_t rows, int64_t columns,
          const std::vector<int64_t>& batches, const std::vector<double>& baselines,
          const Buffer& input, const Buffer& output) const;
};

void Bench::W4(const char* name, W4Kind kind, int64_t rows, int64_t columns,
               const std::vector<int64_t>& batches, const std::vector<double>& baselines,
               const Buffer& input, const Buffer& output) const {
  if (!Wanted(name)) return;
  const W4Shape shape = {
      .rows = rows, .columns = columns, .group_columns = IsTable(kind) ? 64 : 128, .kind = kind};
  const int64_t bytes = W4Bytes(shape);
  const int copies = runner.Copies(bytes);
  const Buffer packed(ops, bytes * copies, codes);
  {
    const Buffer plain(ops, rows * columns, codes);
    const Buffer scales(ops, rows * columns / 32 * 4, halves);
    for (int copy = 0; copy < copies; ++copy) {
      cuda.pack_w4({.shape = shape,
                    .codes = plain.data(),
                    .scales = reinterpret_cast<uint16_t*>(scales.data()),
                    .zeros = reinterpret_cast<uint16_t*>(scales.data()),
                    .table_scales = reinterpret_cast<float*>(scales.data()),
                    .packed = packed.data() + copy * bytes});
    }
    ops.take_error(nullptr);
  }
  for (size_t i = 0; i < batches.size(); ++i) {
    const double seconds = runner.Time(bytes, [&](int copy, void* stream) {
      return cuda.gemm_w4a16({.shape = shape,
                              .m = batches[i],
                              .input = reinterpret_cast<uint16_t*>(input.data()),
                              .packed = packed.data() + copy * bytes,
                              .output = reinterpret_cast<uint16_t*>(output.data()),
                              .weight_is_settled = true,
                              .stream = stream});
    });
    const int64_t moved = bytes + batches[i] * (rows + columns) * 2;
    report({name, rows, columns, batches[i], seconds, baselines[i],
            static_cast<double>(moved) / seconds / bandwidth});
  }
}

// With the quantization of the inputs, and without.
void Bench::W8(int64_t rows, int64_t columns, const std::vector<int64_t>& batches,
               const std::vector<double>& baselines, const Buffer& input,
               const Buffer& output) const {
  const int64_t bytes = rows * columns;
  const int64_t m_max = *std::max_element(batches.begin(), batches.end());
  const Buffer weight(ops, bytes * runner.Copies(bytes), halves);
  const Buffer scales(ops, std::max(rows, m_max) * 4, std::vector<uint8_t>(1 << 20, 0x3c));
  const Buffer quantized(ops, m_max * columns, halves), input_scales(ops, m_max * 4, halves);
  for (const bool quantizes : {true, false}) {
    const char* name = quantizes ? "w8a8" : "w8a8 product only";
    if (!Wanted(name)) continue;
    for (size_t i = 0; i < batches.size(); ++i) {
      const int64_t m = batches[i];
      const double seconds = runner.Time(bytes, [&](int copy, void* stream) {
        if (quantizes) {
          cuda.quantize_rows({.rows = m,
                              .columns = columns,
                              .input = reinterpret_cast<uint16_t*>(input.data()),
                              .codes = reinterpret_cast<int8_t*>(quantized.data()),
                              .scales = reinterpret_cast<float*>(input_scales.data()),
                              .stream = stream});
        }
        return cuda.gemm_w8a8({.m = m,
                               .rows = rows,
                               .columns = columns,
                               .input = reinterpret_cast<int8_t*>(quantized.data()),
                               .input_scales = reinterpret_cast<float*>(input_scales.data()),
                               .weight = reinterpret_cast<int8_t*>(weight.data() + copy * bytes),
                               .weight_scales = reinterpret_cast<float*>(scales.data()),
                               .output = reinterpret_cast<uint16_t*>(output.data()),
                               .weight_is_settled = true,
                               .stream = stream});
      });
      const int64_t moved = bytes + m * (columns * (quantizes ? 4 : 1) + rows * 2);
      report({name, rows, columns, m, seconds, baselines[i],
              static_cast<double>(moved) / seconds / bandwidth});
    }
  }
}

// A decode step's products, where they are meant for: with the norm in front of them.
void Bench::Step(int64_t rows, int64_t columns, const std::vector<int64_t>& batches,
                 const std::vector<double>& baselines, const Buffer& input,
                 const Buffer& output) const {
  struct Kind {
    const char* name;
    StepKind kind;
    W4Kind w4;
  };
  for (const Kind& kind : {Kind{"step fp16", StepKind::kSixteen, W4Kind::kSymmetric},
                           Kind{"step w8a8", StepKind::kInt8, W4Kind::kSymmetric},
                           Kind{"step w4 g128", StepKind::kW4, W4Kind::kSymmetric},
                           Kind{"step nf4 b64", StepKind::kW4, W4Kind::kNf4}}) {
    if (!Wanted(kind.name)) continue;
    StepWeight weight;
    weight.kind = kind.kind;
    weight.rows = rows;
    weight.shape = {.rows = rows,
                    .columns = columns,
                    .group_columns = IsTable(kind.w4) ? 64 : 128,
                    .kind = kind.w4};
    const int64_t bytes = kind.kind == StepKind::kW4
                              ? W4Bytes(weight.shape)
                              : rows * columns * (kind.kind == StepKind::kInt8 ? 1 : 2);
    const Buffer weights(ops, bytes * runner.Copies(bytes), halves);
    const Buffer scales(ops, rows * 4, std::vector<uint8_t>(1 << 20, 0x3c));
    weight.scales = reinterpret_cast<const float*>(scales.data());
    StepProduct args;
    args.columns = columns;
    args.eps = 1e-5f;
    args.input = args.norm = reinterpret_cast<const uint16_t*>(input.data());
    args.output = reinterpret_cast<uint16_t*>(output.data());
    for (size_t i = 0; i < batches.size(); ++i) {
      if (batches[i] > kStepRowsMax) continue;
      args.m = batches[i];
      const double seconds = runner.Time(bytes, [&](int copy, void* stream) {
        args.weights[0] = weight;
        args.weights[0].data = weights.data() + copy * bytes;
        args.stream = stream;
        return cuda.step_product(args);
      });
      const int64_t moved = bytes + batches[i] * (rows + columns) * 2;
      report({kind.name, rows, columns, batches[i], seconds, baselines[i],
              static_cast<double>(moved) / seconds / bandwidth});
    }
  }
}

// Attention of m new tokens over caches of 1024 positions, 32 heads on 8 of 64 numbers; against a
// copy of the caches.
void Bench::StepKeys(int64_t m) const {
  constexpr int64_t kLength = 1024, kHeads = 32, kKvHeads = 8, kDim = 64;
  StepAttention args;
  args.batch = m;
  args.heads = kHeads;
  args.kv_heads = kKvHeads;
  args.dim = kDim;
  args.splits = static_cast<int>(std::clamp<int64_t>(256 / (m * kKvHeads), 1, kStepSplitsMax));
  const int64_t bytes = 2 * m * kKvHeads * kLength * kDim * 2;
  const int copies = runner.Copies(bytes);
  const Buffer caches(ops, bytes * copies, halves), other(ops, bytes, halves);
  const Buffer input(ops, m * (kHeads + 2 * kKvHeads) * kDim * 2, halves);
  const Buffer output(ops, m * kHeads * kDim * 2, halves);
  const Buffer scratch(ops, StepScratchBytes(args), {0});
  std::vector<StepCache> places;
  for (int copy = 0; copy < copies; ++copy) {
    auto* keys = reinterpret_cast<uint16_t*>(caches.data() + copy * bytes);
    places.push_back({keys, keys + bytes / 4});
  }
  const auto on_device = [](const auto& values) {
    const auto* begin = reinterpret_cast<const uint8_t*>(values.data());
    return std::vector<uint8_t>(begin, begin + values.size() * sizeof(values[0]));
  };
  const std::vector<StepPosition> position = {{.length = kLength, .room = kLength}};
  const Buffer position_there(ops, sizeof(StepPosition), on_device(position));
  const Buffer places_there(ops, copies * sizeof(StepCache), on_device(places));
  args.input = reinterpret_cast<const uint16_t*>(input.data());
  args.output = reinterpret_cast<uint16_t*>(output.data());
  args.scratch = scratch.data();
  args.position = reinterpret_cast<const StepPosition*>(position_there.data());
  const double copied = runner.Time(bytes, [&](int copy, void* stream) -> const char* {
    ops.copy_on(other.data(), caches.data() + copy * bytes, bytes, stream);
    return nullptr;
  });
  const double seconds = runner.Time(bytes, [&](int copy, void* stream) {
    args.cache = reinterpret_cast<const StepCache*>(places_there.data()) + copy;
    args.stream = stream;
    return cuda.step_attention(args);
  });
  report({"step attention", kHeads, kLength, m, seconds, copied,
          static_cast<double>(bytes) / seconds / bandwidth});
}

// Rotation of m rows, to 16 bits and to int8, against a copy of them; in 16 bits, the rows are read
// from as many places as weights are.
void Bench::Hadamard(int64_t columns, int64_t m, const Buffer& matrix) const {
  int64_t power = 1;
  while (columns % (2 * power) == 0) power *= 2;
  const int64_t odd = columns / power;
  HadamardRows args = {.rows = m, .columns = columns, .power = power};
  if (odd > 1) {
    args.order = odd * 4;
    args.power = power / 4;
    args.matrix = reinterpret_cast<const float*>(matrix.data());
  }
  const int64_t bytes = m * columns * 2;
  const int copies = runner.Copies(bytes);
  const Buffer input(ops, bytes * copies, halves), output(ops, bytes * copies, halves);
  const Buffer scales(ops, m * 4, halves);
  const double copied = runner.Time(bytes, [&](int copy, void* stream) -> const char* {
    ops.copy_on(output.data() + copy * bytes, input.data() + copy * bytes, bytes, stream);
    return nullptr;
  });
  for (const bool quantizes : {false, true}) {
    const char* name = quantizes ? "hadamard int8" : "hadamard";
    if (!Wanted(name)) continue;
    const double seconds = runner.Time(bytes, [&](int copy, void* stream) {
      HadamardRows one = args;
      uint8_t* const to = output.data() + copy * bytes;
      one.input = reinterpret_cast<const uint16_t*>(input.data() + copy * bytes);
      one.output = quantizes ? nullptr : reinterpret_cast<uint16_t*>(to);
      one.codes = quantizes ? reinterpret_cast<int8_t*>(to) : nullptr;
      one.scales = quantizes ? reinterpret_cast<float*>(scales.data()) : nullptr;
      one.stream = stream;
      return cuda.hadamard_rows(one);
    });
    const auto moved = static_cast<double>(bytes + bytes / (quantizes ? 2 : 1));
    report({name, args.order, columns, m, seconds, copied, moved / seconds / bandwidth});
  }
}

void Bench::Shape(int64_t rows, int64_t columns, const std::vector<int64_t>& batches) const {
  const int64_t m_max = *std::max_element(batches.begin(), batches.end());
  const Buffer input(ops, m_max * columns * 2, halves);
  const Buffer output(ops, m_max * rows * 2, halves);
  const int64_t bytes = rows * columns * 2;
  std::vector<double> baselines;
  {
    const Buffer weight(ops, bytes * runner.Copies(bytes), halves);
    for (const int64_t m : batches) {
      baselines.push_back(runner.Time(bytes, [&](int copy, void* stream) {
        return ops.gemm_16({.m = m,
                            .rows = rows,
                            .columns = columns,
                            .input = reinterpret_cast<uint16_t*>(input.data()),
                            .weight = reinterpret_cast<uint16_t*>(weight.data() + copy * bytes),
                            .output = reinterpret_cast<uint16_t*>(output.data()),
                            .stream = stream});
      }));
      const int64_t moved = bytes + m * (rows + columns) * 2;
      report({"fp16 cuBLAS", rows, columns, m, baselines.back(), baselines.back(),
              static_cast<double>(moved) / baselines.back() / bandwidth});
    }
  }
  W4("w4a16 g128", W4Kind::kSymmetric, rows, columns, batches, baselines, input, output);
  W4("w4a16 g128 zeros", W4Kind::kZeroPoint, rows, columns, batches, baselines, input, output);
  W8(rows, columns, batches, baselines, input, output);
  W4("nf4 b64", W4Kind::kNf4, rows, columns, batches, baselines, input, output);
  Step(rows, columns, batches, baselines, input, output);
}

// Signs for the widths that are no powers of two; which ones makes no difference to the time.
std::vector<uint8_t> RandomSigns() {
  std::mt19937 random(3);
  std::vector<uint8_t> block(kHadamardOrderMax * kHadamardOrderMax * 4);
  for (size_t i = 0; i < block.size(); i += 4) {
    const float sign = random() % 2 == 0 ? 1 : -1;
    std::memcpy(&block[i], &sign, 4);
  }
  return block;
}

}  // namespace

const char* BenchDevice(const DeviceBenchOptions& options,
                        const std::function<void(const DeviceBenchRow&)>& report) {
  const CudaModule* module = LoadCudaModule(nullptr);
  if (module == nullptr) return "no GPU can be used";
  std::vector<std::pair<int64_t, int64_t>> shapes = options.shapes;
  if (shapes.empty()) {
    shapes = {{4096, 4096}, {14336, 4096}, {4096, 14336}, {8192, 8192}, {28672, 8192}};
  }
  std::vector<int64_t> batches = options.batches;
  if (batches.empty()) batches = {1, 4, 16, 64, 256, 1024, 4096};
  const char* launch_error = nullptr;
  const Bench bench = {*module->backend,
                       module->device,
                       options,
                       report,
                       {module->device, launch_error},
                       module->device.read_bandwidth()};
  for (const auto& [rows, columns] : shapes) bench.Shape(rows, columns, batches);
  for (const int64_t m : batches) {
    if (m <= kStepRowsMax && bench.Wanted("step attention")) bench.StepKeys(m);
  }
  if (bench.Wanted("hadamard") || bench.Wanted("hadamard int8")) {
    const std::vector<uint8_t> signs = RandomSigns();
    const Buffer matrix(module->device, static_cast<int64_t>(signs.size()), signs);
    std::set<int64_t> widths;
    for (const auto& [rows, columns] : shapes) widths.insert(columns);
    for (const int64_t columns : widths) {
      for (const int64_t m : batches) bench.Hadamard(columns, m, matrix);
    }
  }
  if (launch_error != nullptr) return launch_error;
  static std::string error;
  error = module->device.take_error(nullptr);
  return error.empty() ? nullptr : error.c_str();
}

}  // namespace quantd::kernels
