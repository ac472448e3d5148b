// AWQ (Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan, Han, 2023): input columns that carry
// large activations are scaled up in the weight, and down in what makes them, before rounding. The
// scales x^r / w^(1-r) are searched over r by the error of the block's output; then groups are
// clipped where that lowers the error of the layer's own output. Under grouped-query attention
// query heads that share a value head share their scale. Where nothing can take a scale, the result
// says so and only clipping is left.
#include "workers/engine/methods/awq.h"

#include <ATen/ops/ones_like.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/methods/clip_search.h"
#include "workers/engine/methods/common.h"
#include "workers/engine/methods/folding.h"
#include "workers/engine/methods/gguf_blocks.h"
#include "workers/engine/methods/rounder.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/kernels.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

constexpr int kRatios = 20;
constexpr double kSmallestScale = 1e-4;
constexpr int64_t kSearchTokens = 8192;

// `block_type`: the GGUF type that the weights go to; empty: integers.
std::vector<OptionInfo> Options(const std::string& block_type) {
  std::vector<OptionInfo> options =
      block_type.empty() ? IntegerOptions() : std::vector<OptionInfo>();
  if (!block_type.empty()) {
    options.push_back({"type",
                       OptionType::kString,
                       block_type,
                       {block_type},
                       {},
                       {},
                       "Block type of the linear layers; method gguf has others."});
  }
  for (OptionInfo& option : options) {
    if (option.name == "bits") option.allowed = {3, 4, 8};
    if (option.name == "sym") {
      option.default_value = false;
      option.help = "Symmetric around zero, without zero points.";
    }
  }
  const auto flag = [&](const char* name, const char* help) {
    options.push_back({name, OptionType::kBool, true, {}, {}, {}, help, /*whole_job=*/true});
  };
  flag("scale_search", "Scale input columns by the searched power of their size.");
  flag("duo_scaling", "Let the size of the weights take part in the scales.");
  flag("clip_search", "Clip groups where that lowers the error of the layer's output.");
  options.push_back({"search_sequences",
                     OptionType::kInt,
                     0,
                     {},
                     0,
                     1024,
                     "Calibration sequences on which scales are compared; 0: as many as hold 8192 "
                     "tokens.",
                     /*whole_job=*/true});
  return options;
}

// A layer of a fold.
struct Reader {
  std::string module;
  const nlohmann::json* options = nullptr;
  at::Tensor weight;  // float32 [N, K] where its rounder works, with the folds before it.
};

// Mean over all layers and rows of |w| relative to the largest of its group, float32 [K].
at::Tensor WeightSize(const std::vector<Reader>& readers) {
  at::Tensor sum;
  int64_t rows = 0;
  for (const Reader& reader : readers) {
    const int64_t columns = RounderOf(*reader.options, reader.weight.size(1)).group_columns;
    const at::Tensor groups = reader.weight.reshape({reader.weight.size(0), -1, columns}).abs();
    const at::Tensor sizes =
        (groups / (groups.amax(-1, true) + 1e-6)).reshape(reader.weight.sizes()).sum(0);
    sum = sum.defined() ? sum + sizes : sizes;
    rows += reader.weight.size(0);
  }
  return (sum / static_cast<double>(rows)).to(at::kCPU);
}

// Keeps the inputs of some linears, one a batch.
class InputKeeper : public LinearHook {
 public:
  explicit InputKeeper(const std::set<absl::string_view>& modules) {
    for (const absl::string_view module : modules) kept_[std::string(module)];
  }
  absl::Status OnInput(absl::string_view module, const at::Tensor& input) override {
    const auto found = kept_.find(std::string(module));
    if (found != kept_.end()) found->second.push_back(input);
    return absl::OkStatus();
  }
  const std::vector<at::Tensor>& Of(const std::string& module) const { return kept_.at(module); }
  bool Has(const std::string& module) const {
    const auto found = kept_.find(module);
    return found != kept_.end() && !found->second.empty();
  }

 private:
  std::map<std::string, std::vector<at::Tensor>> kept_;
};

// Searches and folds the scales of one block.
class ScaleFolding {
 public:
  ScaleFolding(BlockJob& job, const nlohmann::json& options)
      : job_(job),
        options_(options),
        row_(job.decoder().architecture()),
        prefix_(BlockPrefix(row_, job.layer())),
        inputs_({row_.gate, row_.gate_up, row_.down}) {}

  absl::Status Run() {
    const std::vector<Fold> folds = UsableFolds(job_);
    if (folds.empty()) {
      job_.Fallback("fold", prefix_,
                    "no layer of this block can take a scale; its weights are only clipped");
      return absl::OkStatus();
    }
    sequences_ = options_.at("search_sequences").get<int64_t>();
    if (sequences_ == 0) {
      QD_ASSIGN_OR_RETURN(sequences_, SequencesOf(job_, kSearchTokens));
    }
    QD_ASSIGN_OR_RETURN(block_, job_.FloatBlock());
    // What the folds leave as it is: their inputs only change by the scales.
    QD_RETURN_IF_ERROR(CollectInputs(job_, block_, columns_));
    QD_RETURN_IF_ERROR(RunBlock(job_, block_, sequences_, &inputs_,
                                [&](const at::Tensor&, const at::Tensor& output) {
                                  wanted_.push_back(output);
                                  return absl::OkStatus();
                                }));
    nlohmann::json ratios = nlohmann::json::object();
    for (const Fold& fold : folds) {
      QD_ASSIGN_OR_RETURN(const double ratio, FoldOne(fold), fold.previous);
      ratios[fold.previous] = ratio;
    }
    job_.Note(absl::StrCat("awq.block_", job_.layer()), {{"ratios", ratios}});
    return absl::OkStatus();
  }

 private:
  // The chosen ratio; -1: nothing is scaled.
  absl::StatusOr<double> FoldOne(const Fold& fold) {
    QD_ASSIGN_OR_RETURN(const at::Tensor inputs, InputSize(fold));
    if (!inputs.defined()) return -1;
    QD_ASSIGN_OR_RETURN(const std::vector<Reader> readers, Readers(fold));
    QD_ASSIGN_OR_RETURN(const Trial trial, TrialOf(fold));
    double best_ratio = -1, best = 0;
    at::Tensor best_scales;
    QD_ASSIGN_OR_RETURN(const at::Tensor weights,
                        TorchCall("measuring weights", [&] { return WeightSize(readers); }));
    for (int i = 0; i < kRatios; ++i) {
      const double ratio = static_cast<double>(i) / kRatios;
      QD_ASSIGN_OR_RETURN(const at::Tensor scales, TorchCall("making scales", [&] {
                            return Scales(fold, inputs, weights, ratio);
                          }));
      QD_ASSIGN_OR_RETURN(const double error, ErrorWith(readers, scales, trial));
      if (best_ratio >= 0 && error >= best) continue;
      best = error;
      best_ratio = ratio;
      best_scales = scales;
    }
    if (!std::isfinite(best)) {
      return absl::InvalidArgumentError("the block's output is not finite on calibration text");
    }
    QD_RETURN_IF_ERROR(ApplyFold(job_, fold, best_scales));
    return best_ratio;
  }

  // Mean |x| over all tokens; undefined where none came by.
  absl::StatusOr<at::Tensor> InputSize(const Fold& fold) {
    return TorchCall("measuring inputs", [&] {
      at::Tensor sum;
      double tokens = 0;
      for (const std::string& module : fold.linears) {
        const ColumnStatistics* seen = columns_.Of(module);
        if (seen == nullptr) continue;
        sum = sum.defined() ? sum + seen->sum : seen->sum;
        tokens += seen->tokens;
      }
      return sum.defined() ? sum / tokens : sum;
    });
  }

  absl::StatusOr<std::vector<Reader>> Readers(const Fold& fold) {
    std::vector<Reader> readers;
    for (const BlockJob::LinearInfo& linear : job_.linears()) {
      const std::string& module = linear.shape.module;
      if (std::find(fold.linears.begin(), fold.linears.end(), module) == fold.linears.end())
        continue;
      QD_ASSIGN_OR_RETURN(at::Tensor weight, job_.Read(linear.name + ".weight"));
      const Rounder rounder = RounderOf(*linear.options, weight.size(1));
      const at::Device device = KernelDevice(job_.decoder().device());
      readers.push_back({module, linear.options, rounder.on_device ? weight.to(device) : weight});
    }
    return readers;
  }

  at::Tensor Scales(const Fold& fold, const at::Tensor& inputs, const at::Tensor& weights,
                    double ratio) const {
    at::Tensor scales = inputs.pow(ratio);
    if (options_.at("duo_scaling").get<bool>()) {
      scales = scales / (weights.pow(1 - ratio) + kSmallestScale);
    }
    scales = ShareScales(fold, scales.clamp_min(kSmallestScale));
    scales = scales / (scales.max() * scales.min()).sqrt();
    return at::where(scales.isfinite().logical_and(scales > 0), scales, at::ones_like(scales));
  }

  // What is computed to compare scales, and what it should give.
  struct Trial {
    std::string part;  // Empty: the block.
    const std::vector<at::Tensor>* inputs = nullptr;
    std::vector<at::Tensor> wanted;
  };

  // Behind the MLP's last layer nothing but an addition follows, so that its error is the block's,
  // and less has to be computed.
  absl::StatusOr<Trial> TrialOf(const Fold& fold) {
    const std::string& reader = fold.linears.front();
    const bool in_mlp = reader == row_.gate || reader == row_.gate_up || reader == row_.down;
    if (!in_mlp || !row_.mlp_post_norm.empty() || !inputs_.Has(reader)) {
      return Trial{.part = "", .inputs = nullptr, .wanted = wanted_};
    }
    Trial trial = {.part = std::string(reader == row_.down ? row_.down : row_.mlp),
                   .inputs = &inputs_.Of(reader)};
    for (const at::Tensor& input : *trial.inputs) {
      QD_ASSIGN_OR_RETURN(const at::Tensor output,
                          job_.decoder().ForwardPart(block_, trial.part, input));
      trial.wanted.push_back(output);
    }
    return trial;
  }

  // Squared error of the block's output when only the readers are rounded, scaled like that.
  absl::StatusOr<double> ErrorWith(const std::vector<Reader>& readers, const at::Tensor& scales,
                                   const Trial& compared) {
    Block trial = block_;
    for (const Reader& reader : readers) {
      QD_ASSIGN_OR_RETURN(
          const at::Tensor weight, TorchCall("trying scales", [&]() -> absl::StatusOr<at::Tensor> {
            const at::Tensor there = scales.to(reader.weight.device());
            const at::Tensor scaled = (reader.weight * there).contiguous();
            QD_ASSIGN_OR_RETURN(const at::Tensor rounded,
                                RounderOf(*reader.options, scaled.size(1)).round(scaled));
            return rounded / there;
          }));
      QD_RETURN_IF_ERROR(trial.SetWeight(reader.module, weight));
    }
    double error = 0;
    size_t batch = 0;
    const auto compare = [&](const at::Tensor&, const at::Tensor& output) {
      return TorchCall("comparing outputs", [&] {
        const at::Tensor difference =
            output.to(at::kFloat) - compared.wanted[batch++].to(at::kFloat);
        error += difference.square().sum(at::kDouble).item<double>();
      });
    };
    if (compared.inputs == nullptr) {
      QD_RETURN_IF_ERROR(RunBlock(job_, trial, sequences_, nullptr, compare));
      return error;
    }
    for (const at::Tensor& input : *compared.inputs) {
      QD_RETURN_IF_ERROR(job_.CheckCancelled());
      QD_ASSIGN_OR_RETURN(const at::Tensor output,
                          job_.decoder().ForwardPart(trial, compared.part, input));
      QD_RETURN_IF_ERROR(compare(input, output));
    }
    return error;
  }

  BlockJob& job_;
  const nlohmann::json& options_;
  const Architecture& row_;
  const std::string prefix_;
  int64_t sequences_ = 0;
  Block block_;
  ColumnCollector columns_;
  InputKeeper inputs_;
  std::vector<at::Tensor> wanted_;  // The block's outputs, one a batch.
};

class AwqMethod : public Method {
 public:
  // `block_type`: as Options.
  explicit AwqMethod(const std::string& block_type)
      : info_{.name = block_type.empty() ? "awq" : absl::StrCat("awq_", block_type),
              .summary = block_type.empty()
                             ? "Activation-aware scaling and clipping, then rounding; minutes, "
                               "robust at 4 bits."
                             : absl::StrCat("AWQ's scales and clips, searched with GGUF's ",
                                            block_type, " as the rounding."),
              .options = Options(block_type),
              .formats = block_type.empty() ? std::vector<std::string>{"awq", "gptq", "gptq_v2",
                                                                       "compressed-tensors", "gguf",
                                                                       "hf", "pytorch"}
                                            : std::vector<std::string>{"gguf"},
              .needs_calibration = true,
              .reference = "https://arxiv.org/abs/2306.00978",
              .on_device = block_type.empty()} {}

  const MethodInfo& Info() const override { return info_; }

  LinearScheme Scheme(absl::string_view name, int64_t outputs, int64_t inputs,
                      const nlohmann::json& options) const override {
    if (!options.contains("type")) return Method::Scheme(name, outputs, inputs, options);
    return BlockScheme(name, outputs, inputs, options.at("type").get<std::string>());
  }

  CalibrationNeeds Needs(const nlohmann::json& options) const override {
    return {.inputs = true, .block_copies = 3};
  }

  absl::Status PrepareBlock(BlockJob& job) const override {
    if (job.linears().empty()) return absl::OkStatus();
    const nlohmann::json& options = *job.linears().front().options;
    if (options.at("scale_search").get<bool>()) {
      QD_RETURN_IF_ERROR(ScaleFolding(job, options).Run());
    }
    if (options.at("clip_search").get<bool>()) return ClipBlock(job);
    return absl::OkStatus();
  }

  absl::StatusOr<LinearResult> Quantize(LinearJob job) const override {
    return TorchCall(absl::StrCat("rounding ", job.name), [&]() -> absl::StatusOr<LinearResult> {
      const at::Tensor weight = job.weight.contiguous();
      QD_RETURN_IF_ERROR(CheckFinite(absl::StrCat(job.name, ".weight"), weight));
      if (job.options->contains("type")) {
        return QuantizeBlocks(job.name, weight, job.options->at("type").get<std::string>(), {});
      }
      const IntegerScheme scheme = IntegerSchemeOf(*job.options, weight.size(1));
      QuantizedLinear linear = EmptyLinear(scheme, weight.size(0), weight.size(1), weight.device());
      RoundToNearest(weight, scheme, {}, linear);
      return WithRoundingLoss(std::move(linear), weight);
    });
  }

 private:
  const MethodInfo info_;
};

}  // namespace

const Method* Awq() {
  static const auto& method = *new AwqMethod("");
  return &method;
}

const Method* AwqF16() {
  static const auto& method = *new AwqMethod("f16");
  return &method;
}

const Method* AwqQ4_0() {
  static const auto& method = *new AwqMethod("q4_0");
  return &method;
}

const Method* AwqQ4_1() {
  static const auto& method = *new AwqMethod("q4_1");
  return &method;
}

const Method* AwqQ8_0() {
  static const auto& method = *new AwqMethod("q8_0");
  return &method;
}

}  // namespace quantd::engine
