// What an output format is: how quantized linears become tensors and configuration in a checkpoint,
// and how they come back. A new format is a new file with a Format and one line in registry.cc.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "workers/engine/checkpoint/safetensors.h"
#include "workers/engine/methods/quantized_linear.h"

namespace quantd::engine {

class Checkpoint;
class WeightSource;

struct FormatInfo {
  std::string name;
  std::string summary;
  std::vector<std::string> loaders;  // Programs that load it as it is.
};

// A linear as the format sees it before anything is computed.
struct LinearScheme {
  std::string module;  // "model.layers.3.mlp.down_proj"
  int64_t outputs = 0;
  int64_t inputs = 0;
  int bits = 4;
  int64_t group_size = -1;
};

struct NamedTensor {
  std::string name;
  at::Tensor tensor;  // Contiguous, on the CPU.
};

// A module that is stored otherwise than the job's options say.
struct ModuleException {
  std::string module;
  bool skipped = false;                               // Stays in 16 bits.
  nlohmann::json options = nlohmann::json::object();  // Its resolved options when not skipped.
};

// What the whole checkpoint's configuration is made from.
struct ConfigRequest {
  std::string method;      // "gptq"
  nlohmann::json options;  // Resolved.
  bool head_quantized = false;
  std::vector<ModuleException> exceptions;
};

// Finds a tensor of a file by name; NotFound when there is none.
using TensorLookup = std::function<absl::StatusOr<TensorView>(absl::string_view name)>;

// Stateless and thread-safe; lives for ever.
class Format {
 public:
  virtual ~Format() = default;
  virtual const FormatInfo& Info() const = 0;
  // InvalidArgument names the module, the number that does not fit and what would.
  virtual absl::Status Supports(const LinearScheme& scheme) const = 0;
  // Names, dtypes and shapes of the tensors that replace "<module>.weight", before there are any. A
  // bias stays as it is.
  virtual std::vector<TensorInfo> Describe(const LinearScheme& scheme) const = 0;
  // The tensors that Describe announces.
  virtual absl::StatusOr<std::vector<NamedTensor>> Pack(absl::string_view module,
                                                        const QuantizedLinear& linear) const = 0;
  // The inverse of Pack. InvalidArgument on any shape, dtype or value that does not fit the
  // configuration (config.json's "quantization_config") or the other tensors.
  virtual absl::StatusOr<QuantizedLinear> Unpack(const nlohmann::json& configuration,
                                                 absl::string_view module,
                                                 const TensorLookup& lookup) const = 0;
  // The value of config.json's "quantization_config".
  virtual nlohmann::json Configuration(const ConfigRequest& request) const = 0;
  // Whether `configuration` is this format's.
  virtual bool Recognizes(const nlohmann::json& configuration) const = 0;
  // Dense float32 weights out of a checkpoint of this format, decoded when they are read.
  virtual absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(
      std::shared_ptr<const Checkpoint> checkpoint) const = 0;
};

// Sorted by name.
absl::Span<const Format* const> Formats();
// NotFound lists the names there are.
absl::StatusOr<const Format*> FindFormat(absl::string_view name);

}  // namespace quantd::engine
