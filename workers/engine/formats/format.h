// What an output format is: how quantized linears become tensors and configuration in a checkpoint,
// and how they come back. A new format is a new file with a Format and one line in registry.cc.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "workers/engine/checkpoint/config.h"
#include "workers/engine/checkpoint/safetensors.h"
#include "workers/engine/methods/linear_scheme.h"
#include "workers/engine/methods/quantized_linear.h"

namespace quantd::engine {

class Checkpoint;
struct ExpectedTensor;
class WeightSource;

struct FormatInfo {
  std::string name;
  std::string summary;
  std::vector<std::string> loaders;  // Programs that load it as it is.
  // Where older loaders look for the configuration beside config.json; empty: nowhere.
  std::string config_file = {};
  // Its configuration can say what is done to activations while the model runs.
  bool transforms = false;
};

constexpr char kMetadataFile[] = "quantization_metadata.json";  // The record beside every model.

struct NamedTensor {
  std::string name;
  at::Tensor tensor;  // Contiguous, on the CPU.
};

// A module that is stored otherwise than the job's options say.
struct ModuleException {
  std::string module;
  bool skipped = false;                               // Stays in 16 bits.
  nlohmann::json options = nlohmann::json::object();  // Its resolved options when not skipped.
  LinearScheme scheme = {};                           // The same as a scheme.
};

// What the whole checkpoint's configuration is made from.
struct ConfigRequest {
  std::string method;      // "gptq"
  nlohmann::json options;  // Resolved.
  bool head_quantized = false;
  std::vector<ModuleException> exceptions = {};
  LinearScheme scheme = {};  // What the options mean for a module; its name and shape are empty.
  // Modules whose input is turned while the model runs (InputQuantization::rotation), by the order;
  // they and `cache` are empty for formats without `transforms`.
  std::map<int64_t, std::vector<std::string>> rotated_inputs = {};
  CacheTransform cache = {};
  int64_t head_dim = 0;
};

// Finds a tensor of a file by name; NotFound when there is none.
using TensorLookup = std::function<absl::StatusOr<TensorView>(absl::string_view name)>;

// A file of the output folder and its role in the manifest.
struct OutputFile {
  std::string path;  // Relative to the folder.
  std::string role;  // "model", "metadata"
};

// A finished model, for formats that write their own kind of file. Nothing is in memory before it
// is read.
class ModelReader {
 public:
  virtual ~ModelReader() = default;
  // The model's own configuration with the method's edits, without "quantization_config".
  virtual const nlohmann::json& config_json() const = 0;
  virtual const ModelConfig& config() const = 0;
  // The value that Format::Configuration made.
  virtual const nlohmann::json& configuration() const = 0;
  // The original checkpoint: tokenizer and generation files.
  virtual const Checkpoint& original() const = 0;
  // Every tensor in the model's order: dense ones by their own name and in the type that the
  // original has, those of quantized linears as Describe announced them.
  virtual const std::vector<TensorInfo>& tensors() const = 0;
  // The dense tensors' and Pack's own bytes. `use` gets them while they are valid.
  virtual absl::Status Read(
      const TensorInfo& tensor,
      const std::function<absl::Status(absl::Span<const uint8_t> bytes)>& use) = 0;
  virtual int64_t shard_bytes() const = 0;  // What was asked for; 0: the format's choice.
};

struct WrittenModel {
  std::vector<OutputFile> files;
  int64_t tensor_bytes = 0;  // Without headers.
  std::string digest;        // Of names, types, shapes and bytes: the same model, the same digest.
};

// Stateless and thread-safe; lives for ever.
class Format {
 public:
  virtual ~Format() = default;
  virtual const FormatInfo& Info() const = 0;
  // InvalidArgument names the module, the number or encoding that does not fit and what would.
  virtual absl::Status Supports(const LinearScheme& scheme) const = 0;
  // Names, dtypes and shapes of the tensors that replace "<module>.weight", before there are any. A
  // bias stays as it is.
  virtual std::vector<TensorInfo> Describe(const LinearScheme& scheme) const = 0;
  // The tensors that Describe announces. InvalidArgument for an alternative that it cannot hold.
  virtual absl::StatusOr<std::vector<NamedTensor>> Pack(absl::string_view module,
                                                        const QuantizedWeight& linear) const = 0;
  // The inverse of Pack. InvalidArgument on any shape, dtype or value that does not fit the
  // configuration (config.json's "quantization_config") or the other tensors.
  virtual absl::StatusOr<QuantizedWeight> Unpack(const nlohmann::json& configuration,
                                                 absl::string_view module,
                                                 const TensorLookup& lookup) const = 0;
  // Whether one configuration can say all of it; InvalidArgument names the override that it cannot
  // say. The default: anything.
  virtual absl::Status CheckRequest(const ConfigRequest& request) const { return absl::OkStatus(); }
  // The value of config.json's "quantization_config"; null: the format puts none there.
  virtual nlohmann::json Configuration(const ConfigRequest& request) const = 0;
  // Whether `configuration` is this format's.
  virtual bool Recognizes(const nlohmann::json& configuration) const = 0;
  // Dense float32 weights out of a checkpoint of this format, decoded when they are read.
  virtual absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(
      std::shared_ptr<const Checkpoint> checkpoint) const = 0;
  // Writes the whole model into `folder`. The default: safetensors shards with an index,
  // config.json, FormatInfo::config_file and the original's companion files.
  virtual absl::StatusOr<WrittenModel> WriteModel(ModelReader& model,
                                                  const std::string& folder) const;
  // What a checkpoint of this format holds for a tensor outside the quantized linears. The default:
  // the tensor itself in whatever type. NotFound when there is none.
  virtual absl::StatusOr<TensorInfo> DescribeDense(const Checkpoint& checkpoint,
                                                   const ExpectedTensor& tensor) const;
};

// Tokenizer, generation configuration and the like as they are, without those in `own`; appends
// to `files`.
absl::Status CopyCompanionFiles(const Checkpoint& original, const std::set<std::string>& own,
                                const std::string& folder, std::vector<OutputFile>& files);

// Sorted by name.
absl::Span<const Format* const> Formats();
// NotFound lists the names there are.
absl::StatusOr<const Format*> FindFormat(absl::string_view name);

}  // namespace quantd::engine
