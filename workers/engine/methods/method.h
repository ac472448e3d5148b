// What a quantization method is: data that describes it (announced by workers, shown by `quantctl
// methods`) and one function from a linear layer to a QuantizedLinear. A new method is a new file
// with a Method and one line in registry.cc.
#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "workers/engine/job/options.h"
#include "workers/engine/methods/quantized_linear.h"

namespace quantd::engine {

struct MethodInfo {
  std::string name;
  std::string summary;
  std::vector<OptionInfo> options;
  std::vector<std::string> formats;  // The first is the default.
  bool needs_calibration = false;
  std::string reference;  // Paper or program that defines it.
};

// What calibration saw at a linear layer's input; shared by layers that read the same input.
struct InputStatistics {
  at::Tensor hessian;  // float32 [K, K], (2 / tokens) * sum of x x^T, on the compute device.
  int64_t tokens = 0;
};

struct LinearJob {
  std::string name;   // "model.layers.3.mlp.down_proj"
  at::Tensor weight;  // float32 [N, K] on the compute device; the method may overwrite it.
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
  QuantizedLinear linear;
  double loss = 0;  // The method's own measure; GPTQ: half the sum of squared compensated errors.
  double damping = 0;  // The damp_percent that was used in the end; 0 where it means nothing.
  std::vector<FallbackRecord> fallbacks;
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
  // InvalidArgument for NaN or infinity in the weight or statistics; ResourceExhausted for memory.
  virtual absl::StatusOr<LinearResult> Quantize(LinearJob job) const = 0;
};

// Sorted by name.
absl::Span<const Method* const> Methods();
// NotFound lists the names there are.
absl::StatusOr<const Method*> FindMethod(absl::string_view name);

// Every option of the method: the given value or the default, checked alone and together
// (job/options.h).
absl::StatusOr<nlohmann::json> ResolveOptions(const Method& method, const nlohmann::json& given);

}  // namespace quantd::engine
