// What a quantization method is: data that describes it (announced by workers, shown by `quantctl
// methods`), one function from a linear layer to a QuantizedWeight, and hooks for methods that
// change the model or a block first. A new method is a new file with a Method and one line in
// registry.cc.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "workers/engine/job/options.h"
#include "workers/engine/methods/block_job.h"
#include "workers/engine/methods/linear_scheme.h"
#include "workers/engine/methods/quantized_linear.h"
#include "workers/engine/models/weights.h"

namespace quantd::engine {

struct MethodInfo {
  std::string name;
  std::string summary;
  std::vector<OptionInfo> options;
  std::vector<std::string> formats;  // The first is the default.
  bool needs_calibration = false;    // With its default options.
  std::string reference;             // Paper or program that defines it.
  std::string instead = {};          // A method for architectures unknown to this one.
  // Quantize works on the job's device where its kernels can (tensor/kernels.h), else on the CPU.
  bool on_device = false;
  // Quantize treats every row of a weight alone, and groups lie along them: rows may be given to it
  // apart from each other.
  bool rows_apart = false;
};

// What a method wants to know from calibration.
struct CalibrationNeeds {
  bool inputs = false;    // Blocks are run on calibration text at all.
  bool hessian = false;   // InputStatistics::hessian for every linear.
  bool absmax = false;    // InputStatistics::absmax for every linear.
  bool drift = false;     // InputStatistics::drift for every linear but experts'.
  bool original = false;  // BlockJob::Targets: the original model runs beside the quantized one.
  int block_copies = 0;   // Float32 copies of a block that the hooks hold at a time, for estimates.
};

// What calibration saw at a linear layer's input; shared by layers that read the same input.
struct InputStatistics {
  at::Tensor hessian = {};  // float32 [K, K], (2 / tokens) * sum of x x^T, on the compute device.
  // float32 [K, K], (2 / tokens) * sum of (y - x) x^T, y the original model's input where x is the
  // quantized one's; undefined where it was not asked for or the two saw other tokens.
  at::Tensor drift = {};
  at::Tensor absmax = {};  // float32 [K], largest |x| of every column, on the compute device.
  int64_t tokens = 0;
};

struct LinearJob {
  std::string name;  // "model.layers.3.mlp.down_proj"
  // float32 [N, K], on KernelDevice for methods that are on_device, else on the CPU; the method may
  // overwrite it.
  at::Tensor weight;
  const InputStatistics* statistics = nullptr;  // Null for methods without calibration.
  const nlohmann::json* options = nullptr;      // From ResolveOptions: complete and checked.
};

// Something was done another way than asked; becomes a Fallback event.
struct FallbackRecord {
  std::string kind;    // "damping", "diagonal_floor", "rtn"
  std::string module;  // LinearJob::name
  std::string description;
};

struct LinearResult {
  QuantizedWeight linear;
  double loss = 0;  // The method's own measure; GPTQ: half the sum of squared compensated errors.
  double damping = 0;  // The damp_percent that was used in the end; 0 where it means nothing.
  std::vector<FallbackRecord> fallbacks;
};

// A model whose weights are another way of writing the same function, computed when they are read.
struct TransformedModel {
  std::shared_ptr<const WeightSource> source;
  nlohmann::json config_edits;  // A JSON merge patch for config.json.
  std::vector<FallbackRecord> fallbacks;
  CacheTransform cache = {};  // What attention does while the model runs.
};

struct TransformRequest {
  const ModelConfig& config;
  const Architecture& row;
  std::shared_ptr<const WeightSource> source;
  const nlohmann::json& options;
  uint64_t seed = 0;
};

// Stateless and thread-safe; lives for ever.
class Method {
 public:
  virtual ~Method() = default;
  virtual const MethodInfo& Info() const = 0;
  // What single option checks cannot see: combinations. `options` is resolved.
  virtual absl::Status CheckOptions(const nlohmann::json& options) const;
  // Whether a layer of this shape can be quantized so; InvalidArgument names layer, K, group size
  // and the group sizes that work.
  virtual absl::Status CheckLinear(absl::string_view name, int64_t outputs, int64_t inputs,
                                   const nlohmann::json& options) const;
  // How a layer of this shape will be stored. The default is affine with the options bits,
  // group_size and sym.
  virtual LinearScheme Scheme(absl::string_view name, int64_t outputs, int64_t inputs,
                              const nlohmann::json& options) const;
  // The default: nothing, or inputs and Hessians where the method needs calibration.
  virtual CalibrationNeeds Needs(const nlohmann::json& options) const;

  // Before anything else. Nothing: the model stays as it is. Unimplemented names what the
  // architecture lacks and a method that works.
  virtual absl::StatusOr<std::optional<TransformedModel>> TransformModel(
      const TransformRequest& request) const;
  // Before a block's linears are quantized: edits its full-precision weights. The default edits
  // none.
  virtual absl::Status PrepareBlock(BlockJob& job) const;
  // All linears of a block at once, in the order of job.linears(); empty (the default): one by one
  // with Quantize.
  virtual absl::StatusOr<std::vector<LinearResult>> QuantizeBlock(BlockJob& job) const;
  // InvalidArgument for NaN or infinity in the weight or statistics; ResourceExhausted for memory.
  virtual absl::StatusOr<LinearResult> Quantize(LinearJob job) const = 0;

  // The options of one linear of a block (`module` is its name within it) before the user's
  // overrides: methods that treat some layers better say so here. The default: `options`.
  virtual nlohmann::json ModuleOptions(const ModelConfig& config, int64_t layer,
                                       absl::string_view module,
                                       const nlohmann::json& options) const;
};

// Sorted by name.
absl::Span<const Method* const> Methods();
// NotFound lists the names there are.
absl::StatusOr<const Method*> FindMethod(absl::string_view name);

// Those of the options that the method has too: what is left when it stands in for another.
nlohmann::json OptionsKnownTo(const Method& method, const nlohmann::json& options);

// Every option of the method: the given value or the default, checked alone and together
// (job/options.h).
absl::StatusOr<nlohmann::json> ResolveOptions(const Method& method, const nlohmann::json& given);

}  // namespace quantd::engine
