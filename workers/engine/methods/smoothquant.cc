// SmoothQuant (Xiao, Lin, Seznec, Wu, Demouth, Han, 2022): where a norm makes a linear's input, the
// norm's columns are divided by s = max|x|^alpha / max|w|^(1 - alpha) and the weights multiplied,
// so that activations lose their outlier columns; then weights are rounded to 8 bits a row, and
// activations to 8 bits a token (dynamic) or with one scale that calibration found (static).
#include "workers/engine/methods/smoothquant.h"

#include <ATen/ops/maximum.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/methods/common.h"
#include "workers/engine/methods/folding.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

constexpr double kLevels = 127;
constexpr double kSmallestScale = 1e-5;
// Trials of alpha_search; ends that move everything to one side are never best.
constexpr double kAlphaFirst = 0.30;
constexpr double kAlphaLast = 0.95;
constexpr double kAlphaStep = 0.05;
constexpr int64_t kSearchSequences = 16;

// What the authors found for whole families; 0.8 for other models with gated MLPs.
constexpr double kAlphaOtherwise = 0.8;
constexpr std::pair<const char*, double> kAlphas[] = {
    {"llama", 0.85}, {"mistral", 0.8}, {"mixtral", 0.8}, {"gpt2", 0.5}, {"phi", 0.5}};

std::vector<OptionInfo> Options() {
  return {
      {.name = "alpha",
       .type = OptionType::kFloat,
       .default_value = -1.0,
       .allowed = {},
       .minimum = -1.0,
       .maximum = 1.0,
       .help = "Share of the difficulty that moves from activations to weights, 0 to 1; -1: the "
               "architecture's own (llama 0.85, mistral 0.8, gpt2 and phi 0.5, others 0.8).",
       .whole_job = true},
      {.name = "alpha_search",
       .type = OptionType::kBool,
       .default_value = false,
       .allowed = {},
       .minimum = {},
       .maximum = {},
       .help = "Choose alpha for every block by the error of its output.",
       .whole_job = true},
      {.name = "activations",
       .type = OptionType::kString,
       .default_value = "dynamic",
       .allowed = {"dynamic", "static"},
       .minimum = {},
       .maximum = {},
       .help = "dynamic: a scale a token, found at run time. static: one scale a layer from "
               "calibration; faster, and worse where activations have outliers.",
       .whole_job = true},
  };
}

double AlphaOf(const nlohmann::json& options, const ModelConfig& config) {
  const double given = options.at("alpha").get<double>();
  if (given >= 0) return given;
  for (const auto& [type, alpha] : kAlphas) {
    if (config.model_type == type) return alpha;
  }
  return kAlphaOtherwise;
}

bool IsStatic(const nlohmann::json& options) { return options.at("activations") == "static"; }

// Codes and scales of `weight` float32 [N, K], one scale a row.
QuantizedLinear RoundRows(const at::Tensor& weight, const nlohmann::json& options) {
  const IntegerScheme scheme = {
      .bits = 8, .group_size = -1, .group_columns = weight.size(1), .symmetric = true};
  QuantizedLinear linear = EmptyLinear(scheme, weight.size(0), weight.size(1), weight.device());
  linear.scales = (weight.abs().amax(1, true) / kLevels).clamp_min(kSmallestScale);
  linear.zeros.fill_(128);
  linear.codes = ((weight / linear.scales).round().clamp(-kLevels, kLevels) + 128).to(at::kByte);
  linear.input.kind = IsStatic(options) ? InputKind::kInt8PerTensor : InputKind::kInt8PerToken;
  return linear;
}

// What a static scale must hold. An expert that no calibration token reached gets a range that is
// wide for what norms and gates put out.
constexpr double kUnseenRange = 8;

absl::StatusOr<double> LargestInput(const LinearJob& job, std::vector<FallbackRecord>& fallbacks) {
  if (job.statistics == nullptr) {
    return absl::InternalError(absl::StrCat(job.name, ": static without input ranges"));
  }
  if (!job.statistics->absmax.defined()) {
    fallbacks.push_back({"input_range", job.name,
                         absl::StrCat("no calibration token reached it; its inputs are taken to be "
                                      "within ",
                                      kUnseenRange)});
    return kUnseenRange;
  }
  const double largest = job.statistics->absmax.max().item<double>();
  if (std::isfinite(largest)) return largest;
  return absl::InvalidArgumentError(
      absl::StrCat("the inputs of ", job.name, " during calibration are not finite"));
}

// A fold of the block with what its scales are made of.
struct Smoothing {
  Fold fold;
  at::Tensor inputs;   // max |x| of every column.
  at::Tensor weights;  // max |w| of every column over all layers that read it.
  at::Tensor Scales(double alpha) const {
    return (inputs.clamp_min(kSmallestScale).pow(alpha) /
            weights.clamp_min(kSmallestScale).pow(1 - alpha))
        .clamp_min(kSmallestScale);
  }
};

class SmoothQuantMethod : public Method {
 public:
  const MethodInfo& Info() const override {
    static const auto& info = *new MethodInfo{
        .name = "smoothquant",
        .summary = "8-bit weights and activations (W8A8): for fast integer arithmetic.",
        .options = Options(),
        .formats = {"compressed-tensors"},
        .needs_calibration = true,
        .reference = "https://arxiv.org/abs/2211.10438",
        .on_device = true};
    return info;
  }

  absl::Status CheckOptions(const nlohmann::json& options) const override {
    const double alpha = options.at("alpha").get<double>();
    if (alpha < 0 && alpha != -1) {
      return absl::InvalidArgumentError(
          absl::StrCat("alpha ", alpha, ": must be 0 to 1, or -1 for the architecture's own"));
    }
    if (alpha >= 0 && options.at("alpha_search").get<bool>()) {
      return absl::InvalidArgumentError("alpha and alpha_search: give one of them");
    }
    return absl::OkStatus();
  }

  absl::Status CheckLinear(absl::string_view name, int64_t outputs, int64_t inputs,
                           const nlohmann::json& options) const override {
    return absl::OkStatus();  // A scale a row fits any shape.
  }

  LinearScheme Scheme(absl::string_view name, int64_t outputs, int64_t inputs,
                      const nlohmann::json& options) const override {
    LinearScheme scheme;
    scheme.module = std::string(name);
    scheme.outputs = outputs;
    scheme.inputs = inputs;
    scheme.bits = 8;
    scheme.input = IsStatic(options) ? InputKind::kInt8PerTensor : InputKind::kInt8PerToken;
    return scheme;
  }

  CalibrationNeeds Needs(const nlohmann::json& options) const override {
    return {.inputs = true, .absmax = IsStatic(options), .block_copies = 2};
  }

  absl::Status PrepareBlock(BlockJob& job) const override {
    if (job.linears().empty()) return absl::OkStatus();
    const nlohmann::json& options = *job.linears().front().options;
    QD_ASSIGN_OR_RETURN(const Block block, job.FloatBlock());
    QD_ASSIGN_OR_RETURN(const std::vector<Smoothing> smoothings, Prepare(job, block));
    double alpha = AlphaOf(options, job.decoder().config());
    if (options.at("alpha_search").get<bool>() && !smoothings.empty()) {
      QD_ASSIGN_OR_RETURN(alpha, SearchAlpha(job, block, smoothings, options));
    }
    job.Note(absl::StrCat("smoothquant.block_", job.layer()), {{"alpha", alpha}});
    for (const Smoothing& smoothing : smoothings) {
      QD_RETURN_IF_ERROR(ApplyFold(job, smoothing.fold, smoothing.Scales(alpha)));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<LinearResult> Quantize(LinearJob job) const override {
    return TorchCall(absl::StrCat("rounding ", job.name), [&]() -> absl::StatusOr<LinearResult> {
      const at::Tensor weight = job.weight.contiguous();
      QD_RETURN_IF_ERROR(CheckFinite(absl::StrCat(job.name, ".weight"), weight));
      QuantizedLinear linear = RoundRows(weight, *job.options);
      std::vector<FallbackRecord> fallbacks;
      if (IsStatic(*job.options)) {
        QD_ASSIGN_OR_RETURN(const double largest, LargestInput(job, fallbacks));
        linear.input.scale = static_cast<float>(std::max(largest / kLevels, kSmallestScale));
      }
      QD_ASSIGN_OR_RETURN(LinearResult result, WithRoundingLoss(std::move(linear), weight));
      result.fallbacks = std::move(fallbacks);
      return result;
    });
  }

 private:
  // The folds behind norms, with the ranges on both sides.
  static absl::StatusOr<std::vector<Smoothing>> Prepare(BlockJob& job, const Block& block) {
    ColumnCollector columns;
    QD_RETURN_IF_ERROR(CollectInputs(job, block, columns));
    const std::string prefix = BlockPrefix(job.decoder().architecture(), job.layer());
    std::vector<Smoothing> smoothings;
    for (Fold& fold : UsableFolds(job)) {
      if (!fold.previous_is_norm) continue;
      Smoothing smoothing;
      for (const std::string& module : fold.linears) {
        const at::Tensor& weight = block.linear(module).weight;
        const ColumnStatistics* seen = columns.Of(module);
        QD_RETURN_IF_ERROR(TorchCall(absl::StrCat("ranges of ", module), [&] {
          const at::Tensor largest = weight.abs().amax(0).to(at::kFloat).to(at::kCPU);
          smoothing.weights =
              smoothing.weights.defined() ? at::maximum(smoothing.weights, largest) : largest;
          if (seen == nullptr) return;  // An expert without tokens: the others speak for it.
          smoothing.inputs = smoothing.inputs.defined()
                                 ? at::maximum(smoothing.inputs, seen->largest)
                                 : seen->largest;
        }));
      }
      if (!smoothing.inputs.defined()) continue;
      QD_RETURN_IF_ERROR(
          CheckFinite(absl::StrCat("the largest inputs behind ", prefix, fold.previous),
                      smoothing.inputs.unsqueeze(0)));
      smoothing.fold = std::move(fold);
      smoothings.push_back(std::move(smoothing));
    }
    if (smoothings.empty()) {
      job.Fallback("fold", prefix, "no norm can take a scale here; the block is rounded as it is");
    }
    return smoothings;
  }

  // The block as it would compute with that alpha, weights and activations rounded.
  static absl::StatusOr<Block> Trial(BlockJob& job, const Block& block,
                                     const std::vector<Smoothing>& smoothings, double alpha,
                                     const nlohmann::json& options) {
    Block trial = block;
    const double offset = job.decoder().architecture().norm == NormKind::kRmsPlusOne ? 1 : 0;
    std::map<std::string, at::Tensor> scales;
    for (const Smoothing& smoothing : smoothings) {
      const at::Tensor s = smoothing.Scales(alpha).to(job.decoder().device());
      const std::string& norm = smoothing.fold.previous;
      for (const char* part : {".weight", ".bias"}) {
        const Linear& from = block.linear(norm);
        const at::Tensor& value = part[1] == 'w' ? from.weight : from.bias;
        if (!value.defined()) continue;
        const double shift = part[1] == 'w' ? offset : 0;
        QD_RETURN_IF_ERROR(trial.SetTensor(norm + part, (value + shift) / s - shift));
      }
      for (const auto* modules : {&smoothing.fold.linears, &smoothing.fold.others}) {
        for (const std::string& module : *modules) scales[module] = s;
      }
      for (const std::string& module : smoothing.fold.others) {
        QD_RETURN_IF_ERROR(trial.SetWeight(module, block.linear(module).weight * s));
      }
    }
    for (const BlockJob::LinearInfo& linear : job.linears()) {
      const std::string& module = linear.shape.module;
      at::Tensor weight = block.linear(module).weight.to(at::kFloat);
      if (const auto found = scales.find(module); found != scales.end())
        weight = weight * found->second;
      QD_ASSIGN_OR_RETURN(const at::Tensor rounded,
                          RoundRows(weight, options).Dequantize(at::kFloat));
      QD_RETURN_IF_ERROR(trial.SetWeight(module, rounded));
      trial.linear(module).input.kind = InputKind::kInt8PerToken;
    }
    return trial;
  }

  static absl::StatusOr<double> SearchAlpha(BlockJob& job, const Block& block,
                                            const std::vector<Smoothing>& smoothings,
                                            const nlohmann::json& options) {
    std::vector<at::Tensor> wanted;
    QD_RETURN_IF_ERROR(RunBlock(job, block, kSearchSequences, nullptr,
                                [&](const at::Tensor&, const at::Tensor& output) {
                                  wanted.push_back(output);
                                  return absl::OkStatus();
                                }));
    double best_alpha = 0, best = 0;
    for (double alpha = kAlphaFirst; alpha < kAlphaLast + kAlphaStep / 2; alpha += kAlphaStep) {
      absl::StatusOr<Block> trial =
          TorchCall("trying alpha", [&] { return Trial(job, block, smoothings, alpha, options); });
      QD_RETURN_IF_ERROR(trial.status());
      double error = 0;
      size_t batch = 0;
      QD_RETURN_IF_ERROR(RunBlock(
          job, *trial, kSearchSequences, nullptr, [&](const at::Tensor&, const at::Tensor& output) {
            return TorchCall("comparing outputs", [&] {
              const at::Tensor difference = (output - wanted[batch++]).to(at::kFloat);
              error += difference.square().sum(at::kDouble).item<double>();
            });
          }));
      if (best_alpha == 0 || error < best) {
        best = error;
        best_alpha = alpha;
      }
    }
    return best_alpha;
  }
};

}  // namespace

const Method* SmoothQuant() {
  static const SmoothQuantMethod method;
  return &method;
}

}  // namespace quantd::engine
