// See plan.h.
#include "workers/engine/quantize/plan.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "workers/engine/formats/open.h"
#include "workers/engine/formats/pattern.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/kernels.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

constexpr int64_t kDefaultSequences = 128;
constexpr int64_t kDefaultSequenceLength = 2048;

struct CompiledOverride {
  const ModuleOverride* given;
  Pattern pattern;
  bool used = false;
};

absl::StatusOr<std::vector<CompiledOverride>> CompileOverrides(const QuantizeSpec& spec,
                                                               const Method& method) {
  std::vector<CompiledOverride> compiled;
  for (size_t i = 0; i < spec.overrides.size(); ++i) {
    const ModuleOverride& given = spec.overrides[i];
    QD_ASSIGN_OR_RETURN(Pattern pattern, Pattern::Compile(given.pattern), "overrides[", i,
                        "].pattern");
    for (const OptionInfo& option : method.Info().options) {
      if (option.whole_job && given.options.contains(option.name)) {
        return absl::InvalidArgumentError(absl::StrCat("overrides[", i, "].options.", option.name,
                                                       ": this option holds for the whole job"));
      }
    }
    compiled.push_back({&given, std::move(pattern)});
  }
  return compiled;
}

absl::Status ApplyOverrides(const QuantizePlan& plan, std::vector<CompiledOverride>& overrides,
                            PlannedLinear& linear) {
  nlohmann::json options = linear.options;
  for (size_t i = 0; i < overrides.size(); ++i) {
    if (!overrides[i].pattern.Found(linear.name)) continue;
    overrides[i].used = true;
    linear.quantized = !overrides[i].given->skip;
    options.update(overrides[i].given->options);
  }
  QD_ASSIGN_OR_RETURN(linear.options, ResolveOptions(*plan.method, options), "overrides for ",
                      linear.name);
  return absl::OkStatus();
}

absl::Status PlanScheme(const QuantizePlan& plan, PlannedLinear& linear) {
  if (!linear.quantized) return absl::OkStatus();
  QD_RETURN_IF_ERROR(
      plan.method->CheckLinear(linear.name, linear.shape.out, linear.shape.in, linear.options));
  linear.scheme =
      plan.method->Scheme(linear.name, linear.shape.out, linear.shape.in, linear.options);
  return plan.format->Supports(linear.scheme);
}

absl::Status PlanHead(QuantizePlan& plan) {
  absl::string_view name = plan.row->head;
  absl::ConsumeSuffix(&name, ".weight");
  plan.head.name = std::string(name);
  plan.head.shape = {.module = plan.head.name,
                     .out = plan.config.vocab_size,
                     .in = plan.config.hidden_size,
                     .has_bias = false,
                     .group = 0};
  plan.head.quantized = plan.options.value("quantize_head", false);
  plan.head.options = plan.options;
  if (plan.head.quantized && plan.config.tie_word_embeddings) {
    return absl::InvalidArgumentError(
        "quantize_head: this model's head is its embedding (tie_word_embeddings), which no loader "
        "reads "
        "quantized; leave quantize_head off");
  }
  return absl::OkStatus();
}

// Full precision for the weights that will be quantized; everything else as the output will hold
// it, so that what is computed is what is written.
class StoredWeights : public WrappedWeights {
 public:
  StoredWeights(std::shared_ptr<const WeightSource> base, std::set<std::string> quantized)
      : WrappedWeights(*base), owner_(std::move(base)), quantized_(std::move(quantized)) {}

  absl::StatusOr<at::Tensor> Read(absl::string_view name) const override {
    QD_ASSIGN_OR_RETURN(const at::Tensor tensor, base_.Read(name));
    if (quantized_.contains(std::string(name))) return tensor;
    QD_ASSIGN_OR_RETURN(const DType type, base_.StoredType(name));
    return TorchCall(absl::StrCat("rounding ", name),
                     [&] { return tensor.to(ToScalarType(type)); });
  }

 private:
  std::shared_ptr<const WeightSource> owner_;
  std::set<std::string> quantized_;
};

// Once it is known what is quantized.
void RoundTheRest(QuantizePlan& plan) {
  std::set<std::string> quantized;
  for (int64_t unit = 0; unit < plan.units(); ++unit) {
    for (const PlannedLinear* linear : plan.UnitLinears(unit)) {
      quantized.insert(linear->WeightName());
    }
  }
  plan.source = std::make_shared<StoredWeights>(plan.source, std::move(quantized));
}

absl::Status PlanLinears(const QuantizeSpec& spec, QuantizePlan& plan) {
  QD_ASSIGN_OR_RETURN(std::vector<CompiledOverride> overrides,
                      CompileOverrides(spec, *plan.method));
  QD_RETURN_IF_ERROR(PlanHead(plan));
  int64_t quantized = 0;
  for (int64_t layer = 0; layer < plan.config.layers; ++layer) {
    std::vector<PlannedLinear>& block = plan.blocks.emplace_back();
    for (const LinearShape& shape : Linears(plan.config, *plan.row, layer)) {
      PlannedLinear& linear = block.emplace_back();
      linear.shape = shape;
      linear.name = absl::StrCat(BlockPrefix(*plan.row, layer), shape.module);
      linear.options = plan.method->ModuleOptions(plan.config, layer, shape.module, plan.options);
      QD_RETURN_IF_ERROR(ApplyOverrides(plan, overrides, linear));
      QD_RETURN_IF_ERROR(PlanScheme(plan, linear));
      quantized += linear.quantized;
    }
  }
  if (plan.head.quantized) {
    QD_RETURN_IF_ERROR(ApplyOverrides(plan, overrides, plan.head));
    QD_RETURN_IF_ERROR(PlanScheme(plan, plan.head));
    quantized += plan.head.quantized;
  }
  for (const CompiledOverride& override : overrides) {
    if (override.used) continue;
    return absl::InvalidArgumentError(absl::StrCat("override pattern '", override.given->pattern,
                                                   "' matches no module; module names look like ",
                                                   plan.blocks[0][0].name));
  }
  if (quantized == 0) return absl::InvalidArgumentError("the overrides skip every module");
  return absl::OkStatus();
}

// Source and configuration, after the method's transformation of the model.
absl::Status PlanSource(QuantizePlan& plan) {
  plan.config = plan.checkpoint->config();
  plan.config_json = plan.checkpoint->raw_config();
  QD_ASSIGN_OR_RETURN(plan.row, FindArchitecture(plan.config));
  QD_ASSIGN_OR_RETURN(plan.source, OpenWeights(plan.checkpoint));
  QD_RETURN_IF_ERROR(ValidateWeights(plan.config, *plan.row, *plan.source));
  QD_ASSIGN_OR_RETURN(std::optional<TransformedModel> transformed,
                      plan.method->TransformModel({.config = plan.config,
                                                   .row = *plan.row,
                                                   .source = plan.source,
                                                   .options = plan.options,
                                                   .seed = plan.seed}),
                      "method ", plan.method->Info().name);
  if (!transformed.has_value()) return absl::OkStatus();
  plan.source = std::move(transformed->source);
  plan.fallbacks = std::move(transformed->fallbacks);
  plan.config_json.merge_patch(transformed->config_edits);
  QD_ASSIGN_OR_RETURN(
      plan.config, ParseModelConfig(plan.config_json, plan.checkpoint->folder() + "/config.json"));
  plan.config.cache = transformed->cache;
  return ValidateWeights(plan.config, *plan.row, *plan.source);
}

// What has to be done to activations must be said in the files, or readers would compute nonsense.
absl::Status CheckTransforms(const Format& format, const ConfigRequest& request) {
  const bool plain = request.rotated_inputs.empty() && request.cache == CacheTransform();
  if (plain || format.Info().transforms) return absl::OkStatus();
  std::vector<std::string> able;
  for (const Format* other : Formats()) {
    if (other->Info().transforms) able.push_back(other->Info().name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("format ", format.Info().name, " cannot say that method ", request.method,
                   " with these options changes activations while the model runs; use format ",
                   absl::StrJoin(able, " or ")));
}

absl::Status PlanOutput(QuantizePlan& plan) {
  std::map<std::string, const PlannedLinear*> quantized;
  std::vector<ModuleException> exceptions;
  const auto visit = [&](const PlannedLinear& linear) {
    if (linear.quantized) quantized[linear.WeightName()] = &linear;
    if (linear.quantized && linear.options == plan.options) return;
    exceptions.push_back({linear.name, !linear.quantized, linear.options, linear.scheme});
  };
  for (const auto& block : plan.blocks) {
    for (const PlannedLinear& linear : block) visit(linear);
  }
  // An unquantized head is said by "lm_head": false alone.
  if (plan.head.quantized) visit(plan.head);
  ConfigRequest request = {.method = plan.method->Info().name,
                           .options = plan.options,
                           .head_quantized = plan.head.quantized,
                           .exceptions = exceptions,
                           .scheme = plan.scheme,
                           .cache = plan.config.cache,
                           .head_dim = plan.config.head_dim};
  for (const auto& block : plan.blocks) {
    for (const PlannedLinear& linear : block) {
      const int64_t order = plan.source->InputRounding(linear.WeightName()).rotation;
      if (order > 0) request.rotated_inputs[order].push_back(linear.name);
    }
  }
  QD_RETURN_IF_ERROR(CheckTransforms(*plan.format, request));
  QD_RETURN_IF_ERROR(plan.format->CheckRequest(request));
  plan.configuration = plan.format->Configuration(request);
  for (const ExpectedTensor& tensor : ExpectedTensors(plan.config, *plan.row)) {
    const auto found = quantized.find(tensor.name);
    if (found != quantized.end()) {
      for (TensorInfo& info : plan.format->Describe(found->second->scheme)) {
        plan.output.push_back(std::move(info));
      }
      continue;
    }
    QD_ASSIGN_OR_RETURN(const DType type, plan.source->StoredType(tensor.name));
    plan.output.push_back({tensor.name, type, tensor.shape});
  }
  for (TensorInfo& info : plan.output) {
    info.shape = StoredShape(*plan.row, info);
    QD_ASSIGN_OR_RETURN(const int64_t elements, ElementCount(info.shape));
    plan.output_bytes += elements * DTypeBytes(info.dtype);
  }
  return absl::OkStatus();
}

absl::Status PlanDevice(const Runtime& runtime, QuantizePlan& plan) {
  QD_ASSIGN_OR_RETURN(plan.devices, SelectDevices(runtime.device));
  plan.device = plan.devices[0];
  QD_RETURN_IF_ERROR(CheckKernels(plan.device));
  if (!runtime.dtype.empty() && runtime.dtype != "auto") {
    QD_ASSIGN_OR_RETURN(plan.dtype, ParseComputeDtype(runtime.dtype));
  } else if (plan.device.is_cuda() && plan.config.dtype != "") {
    QD_ASSIGN_OR_RETURN(plan.dtype, ParseComputeDtype(plan.config.dtype));
  }
  return absl::OkStatus();
}

absl::Status PlanCalibration(const QuantizeSpec& spec, QuantizePlan& plan) {
  const Calibration& given = spec.calibration;
  if (given.sequences < 0 || given.sequence_length < 0 || given.batch_size < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "calibration: sequences ", given.sequences, ", sequence_length ", given.sequence_length,
        " and batch_size ", given.batch_size, " must not be negative"));
  }
  if (!plan.needs.inputs) return absl::OkStatus();
  const int64_t positions = plan.config.max_position_embeddings;
  plan.sequences = given.sequences > 0 ? given.sequences : kDefaultSequences;
  plan.sequence_length = given.sequence_length;
  if (plan.sequence_length == 0) {
    plan.sequence_length =
        positions > 0 ? std::min(positions, kDefaultSequenceLength) : kDefaultSequenceLength;
  }
  if (positions > 0 && plan.sequence_length > positions) {
    return absl::InvalidArgumentError(
        absl::StrCat("calibration.sequence_length ", plan.sequence_length,
                     " is beyond the model's max_position_embeddings ", positions));
  }
  return absl::OkStatus();
}

absl::StatusOr<QuantizePlan> PlanAsAsked(JobContext& context, const QuantizeSpec& spec) {
  QuantizePlan plan;
  QD_ASSIGN_OR_RETURN(plan.method, FindMethod(spec.method));
  QD_ASSIGN_OR_RETURN(plan.options, ResolveOptions(*plan.method, spec.options));
  plan.scheme = plan.method->Scheme("", 0, 0, plan.options);
  plan.needs = plan.method->Needs(plan.options);
  plan.seed = context.spec.runtime.seed;
  const std::vector<std::string>& formats = plan.method->Info().formats;
  const std::string format = spec.format.empty() ? formats.front() : spec.format;
  QD_ASSIGN_OR_RETURN(plan.format, FindFormat(format));
  if (std::find(formats.begin(), formats.end(), format) == formats.end()) {
    return absl::InvalidArgumentError(absl::StrCat("format ", format, " cannot hold what method ",
                                                   spec.method, " makes; use ",
                                                   absl::StrJoin(formats, " or ")));
  }
  QD_ASSIGN_OR_RETURN(const std::string folder, context.ResolveModel(spec.model));
  QD_ASSIGN_OR_RETURN(plan.checkpoint, Checkpoint::Open(folder), "opening model ", spec.model);
  if (plan.checkpoint->config().is_quantized) {
    return absl::FailedPreconditionError(
        absl::StrCat(folder,
                     "/config.json has a quantization_config: the model is quantized already; give "
                     "the original one"));
  }
  QD_RETURN_IF_ERROR(PlanSource(plan), "model ", spec.model);
  QD_RETURN_IF_ERROR(PlanLinears(spec, plan));
  RoundTheRest(plan);
  QD_RETURN_IF_ERROR(PlanOutput(plan));
  QD_RETURN_IF_ERROR(PlanCalibration(spec, plan));
  QD_RETURN_IF_ERROR(PlanDevice(context.spec.runtime, plan));
  return plan;
}

// The same job by another method, as far as that one has its options.
QuantizeSpec With(const Method& method, QuantizeSpec spec) {
  spec.method = method.Info().name;
  spec.options = OptionsKnownTo(method, spec.options);
  for (ModuleOverride& override : spec.overrides) {
    override.options = OptionsKnownTo(method, override.options);
  }
  return spec;
}

}  // namespace

std::vector<const PlannedLinear*> QuantizePlan::UnitLinears(int64_t unit) const {
  if (unit == static_cast<int64_t>(blocks.size())) return {&head};
  std::vector<const PlannedLinear*> result;
  for (const PlannedLinear& linear : blocks[unit]) {
    if (linear.quantized) result.push_back(&linear);
  }
  return result;
}

absl::StatusOr<QuantizePlan> PlanQuantize(JobContext& context, const QuantizeSpec& spec) {
  absl::StatusOr<QuantizePlan> plan = PlanAsAsked(context, spec);
  if (plan.status().code() != absl::StatusCode::kUnimplemented || !spec.fallback) return plan;
  QD_ASSIGN_OR_RETURN(const Method* asked, FindMethod(spec.method));
  if (asked->Info().instead.empty()) return plan;
  QD_ASSIGN_OR_RETURN(const Method* instead, FindMethod(asked->Info().instead));
  const std::string reason(plan.status().message());
  QD_ASSIGN_OR_RETURN(plan, PlanAsAsked(context, With(*instead, spec)), "after ", reason);
  plan->fallbacks.push_back(
      {"method", "",
       absl::StrCat(reason, "; ", instead->Info().name, " is used instead of ", spec.method)});
  return plan;
}

}  // namespace quantd::engine
