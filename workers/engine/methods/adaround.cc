// Which way each weight is rounded is learned from what it does to outputs. Two variants: signround
// (signed gradient descent, also on ranges; the stronger one) and adaround (a relaxed choice that
// is annealed). Two objectives: the output of the whole block against the original model's
// (gradients by libtorch), or every layer's own output on what calibration saw at its input
// (gradients from its second moments, no forward passes). Needs calibration.
#include "workers/engine/methods/adaround.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randperm.h>

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/methods/common.h"
#include "workers/engine/methods/learned_rounding.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// AdaRound needs more and smaller steps than signed descent does.
constexpr int64_t kSignSteps = 200;
constexpr int64_t kAdaSteps = 1000;
constexpr int64_t kSettledEvery = 50;  // Steps between looks whether every choice is made.

std::vector<OptionInfo> Options() {
  std::vector<OptionInfo> options = IntegerOptions();
  const auto add = [&](const char* name, OptionType type, nlohmann::json value,
                       std::vector<nlohmann::json> allowed, std::optional<double> minimum,
                       std::optional<double> maximum, const char* help) {
    options.push_back({name, type, std::move(value), std::move(allowed), minimum, maximum, help,
                       /*whole_job=*/true});
  };
  add("variant", OptionType::kString, "signround", {"signround", "adaround"}, {}, {},
      "signround: signed gradient descent on rounding and ranges. adaround: floor or ceiling by an "
      "annealed relaxation.");
  add("objective", OptionType::kString, "block", {"block", "layer"}, {}, {},
      "What the loss is measured on: the block's output against the original model's, or each "
      "layer's own.");
  add("steps", OptionType::kInt, 0, {}, 0, 100000,
      "Steps a block (or layer); 0: 200 for signround, 1000 for adaround.");
  add("step_sequences", OptionType::kInt, 8, {}, 1, 1024,
      "Calibration sequences a step, drawn anew for each; objective block only.");
  add("rate", OptionType::kFloat, 0.0, {}, 0.0, 1.0,
      "Learning rate; 0: 1 / steps for signround, 0.01 for adaround.");
  add("range_rate", OptionType::kFloat, 0.0, {}, 0.0, 1.0,
      "Of the ranges, which only signround learns; 0: as rate.");
  add("scale_search", OptionType::kBool, false, {}, {}, {},
      "Begin at the ranges with the smallest weighted error instead of the largest weights; "
      "adaround always does, because its ranges stay.");
  add("regularization", OptionType::kFloat, 0.01, {}, 0.0, 10.0,
      "adaround: weight of the term that drives every choice to floor or ceiling.");
  add("warm_start", OptionType::kFloat, 0.2, {}, 0.0, 0.9,
      "adaround: share of the steps before that term counts.");
  add("beta_start", OptionType::kFloat, 20.0, {}, 2.0, 100.0,
      "adaround: the term's exponent at first.");
  add("beta_end", OptionType::kFloat, 2.0, {}, 1.0, 20.0, "adaround: and at the end.");
  return options;
}

bool IsSignRound(const nlohmann::json& options) { return options.at("variant") == "signround"; }

int64_t StepsOf(const nlohmann::json& options) {
  const int64_t steps = options.at("steps").get<int64_t>();
  return steps > 0 ? steps : IsSignRound(options) ? kSignSteps : kAdaSteps;
}

// One linear and what learns its rounding.
struct Pupil {
  std::string name, module;
  std::unique_ptr<RoundingLearner> learner;
  at::Tensor leaf = {};  // What the block computes with now; gradients gather here.
};

RangeGrid FirstGrid(const at::Tensor& weight, const IntegerScheme& scheme,
                    const nlohmann::json& options, const at::Tensor& column_weights) {
  const bool search = options.at("scale_search").get<bool>() || !IsSignRound(options);
  return search ? SearchGrid(weight, scheme, column_weights) : WholeGrid(weight, scheme);
}

std::unique_ptr<RoundingLearner> MakeLearner(const at::Tensor& weight, const RangeGrid& grid,
                                             const nlohmann::json& options) {
  const IntegerScheme scheme = IntegerSchemeOf(options, weight.size(1));
  const double rate = options.at("rate").get<double>();
  if (IsSignRound(options)) {
    SignRoundOptions sign;
    sign.rate = rate > 0 ? rate : 1.0 / static_cast<double>(StepsOf(options));
    const double range_rate = options.at("range_rate").get<double>();
    sign.range_rate = range_rate > 0 ? range_rate : sign.rate;
    return MakeSignRounding(weight, scheme, grid, sign);
  }
  AdaRoundOptions ada;
  if (rate > 0) ada.rate = rate;
  ada.regularization = options.at("regularization").get<double>();
  ada.warm_start = options.at("warm_start").get<double>();
  ada.beta_start = options.at("beta_start").get<double>();
  ada.beta_end = options.at("beta_end").get<double>();
  return MakeAdaRounding(weight, scheme, grid, ada);
}

// Mean square of every input column, for the search of ranges.
class ColumnSquares : public LinearHook {
 public:
  absl::Status OnInput(absl::string_view module, const at::Tensor& input) override {
    return TorchCall("weighing input columns", [&] {
      const at::Tensor x = input.reshape({-1, input.size(-1)}).to(at::kFloat);
      if (x.size(0) == 0) return;
      const at::Tensor squares = x.square().mean(0);
      at::Tensor& sum = sums_[std::string(module)];
      sum = sum.defined() ? sum + squares : squares;
    });
  }
  // Undefined where nothing was seen.
  at::Tensor Of(const std::string& module) const {
    const auto found = sums_.find(module);
    return found == sums_.end() ? at::Tensor() : found->second;
  }

 private:
  std::map<std::string, at::Tensor> sums_;
};

// The search for ranges needs no more: columns differ by orders of magnitude.
constexpr int64_t kWeighingSequences = 16;

absl::StatusOr<ColumnSquares> WeighColumns(BlockJob& job, const Block& block) {
  ColumnSquares squares;
  const int64_t sequences = std::min(job.sequences(), kWeighingSequences);
  for (int64_t begin = 0; begin < sequences; begin += job.batch_size()) {
    QD_RETURN_IF_ERROR(job.CheckCancelled());
    QD_ASSIGN_OR_RETURN(const at::Tensor inputs,
                        job.Inputs(begin, std::min(job.batch_size(), sequences - begin)));
    QD_RETURN_IF_ERROR(
        job.decoder().Forward(block, inputs, {.cache = nullptr, .hook = &squares}).status());
  }
  return squares;
}

// Learns the rounding of a whole block.
class BlockLearning {
 public:
  BlockLearning(BlockJob& job, const nlohmann::json& options)
      : job_(job),
        options_(options),
        generator_(at::detail::createCPUGenerator(job.seed() * 1000003 +
                                                  static_cast<uint64_t>(job.layer()))) {}

  absl::StatusOr<std::vector<LinearResult>> Run() {
    QD_ASSIGN_OR_RETURN(Block block, job_.FloatBlock());
    QD_RETURN_IF_ERROR(MakePupils(block));
    const int64_t steps = StepsOf(options_);
    const bool anneals = !IsSignRound(options_);
    int64_t step = 0;
    for (; step < steps; ++step) {
      QD_RETURN_IF_ERROR(job_.CheckCancelled());
      QD_ASSIGN_OR_RETURN(const double loss, Step(block, step, steps));
      if (step == 0) first_loss_ = loss;
      if (step == 0 || loss < best_loss_) best_loss_ = loss;
      if (anneals && step % kSettledEvery == 0 && Settled()) break;
    }
    job_.Note(absl::StrCat("learned_rounding.block_", job_.layer()),
              {{"steps", step}, {"first_loss", first_loss_}, {"best_loss", best_loss_}});
    return Finish();
  }

 private:
  absl::Status MakePupils(const Block& block) {
    QD_ASSIGN_OR_RETURN(const ColumnSquares squares, WeighColumns(job_, block));
    for (const BlockJob::LinearInfo& linear : job_.linears()) {
      QD_RETURN_IF_ERROR(job_.CheckCancelled());
      QD_ASSIGN_OR_RETURN(at::Tensor weight, job_.Read(linear.name + ".weight"));
      QD_RETURN_IF_ERROR(TorchCall(absl::StrCat("preparing ", linear.name), [&]() -> absl::Status {
        QD_RETURN_IF_ERROR(CheckFinite(linear.name + ".weight", weight));
        weight = weight.to(job_.decoder().device());
        const IntegerScheme scheme = IntegerSchemeOf(*linear.options, weight.size(1));
        const RangeGrid grid =
            FirstGrid(weight, scheme, *linear.options, squares.Of(linear.shape.module));
        pupils_.push_back({.name = linear.name,
                           .module = linear.shape.module,
                           .learner = MakeLearner(weight, grid, *linear.options)});
        return absl::OkStatus();
      }));
    }
    return absl::OkStatus();
  }

  // Inputs and targets of the step's sequences.
  absl::Status Draw(at::Tensor& inputs, at::Tensor& targets) {
    const int64_t count = std::min(options_.at("step_sequences").get<int64_t>(), job_.sequences());
    if (position_ + count > order_.size(0)) {
      QD_ASSIGN_OR_RETURN(order_, TorchCall("shuffling", [&] {
                            return at::randperm(job_.sequences(), generator_);
                          }));
      position_ = 0;
    }
    std::vector<at::Tensor> in, out;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t sequence = order_.const_data_ptr<int64_t>()[position_++];
      QD_ASSIGN_OR_RETURN(at::Tensor input, job_.Inputs(sequence, 1));
      QD_ASSIGN_OR_RETURN(at::Tensor target, job_.Targets(sequence, 1));
      in.push_back(std::move(input));
      out.push_back(std::move(target));
    }
    return TorchCall("gathering sequences", [&] {
      inputs = at::cat(in);
      targets = at::cat(out);
    });
  }

  absl::StatusOr<double> Step(Block& block, int64_t step, int64_t steps) {
    at::Tensor inputs, targets;
    QD_RETURN_IF_ERROR(Draw(inputs, targets));
    QD_RETURN_IF_ERROR(TorchCall("rounding", [&] {
      for (Pupil& pupil : pupils_) {
        pupil.leaf =
            pupil.learner->Weight().to(job_.decoder().dtype()).detach().requires_grad_(true);
        block.linear(pupil.module).weight = pupil.leaf;
      }
    }));
    double loss = 0;
    {
      const GradientScope gradients;
      QD_ASSIGN_OR_RETURN(const at::Tensor outputs, job_.decoder().Forward(block, inputs));
      QD_RETURN_IF_ERROR(TorchCall("learning", [&] {
        // Summed over features: means of thousands of small numbers would underflow in 16 bits.
        const at::Tensor difference = outputs.to(at::kFloat) - targets.to(at::kFloat);
        const at::Tensor total = difference.square().sum(-1).mean();
        loss = total.item<double>();
        total.backward();
      }));
    }
    if (!std::isfinite(loss)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the output of block ", job_.layer(), " is not finite on calibration text"));
    }
    const double progress = static_cast<double>(step) / static_cast<double>(steps);
    QD_RETURN_IF_ERROR(TorchCall("learning", [&] {
      for (Pupil& pupil : pupils_) {
        if (step > 0 && loss < best_loss_) pupil.learner->Keep();
        // An expert that no token reached stays where it is.
        if (!pupil.leaf.grad().defined()) continue;
        pupil.learner->Step(pupil.leaf.grad().to(at::kFloat), progress);
        pupil.leaf = at::Tensor();
      }
    }));
    return loss;
  }

  bool Settled() const {
    return std::all_of(pupils_.begin(), pupils_.end(),
                       [](const Pupil& pupil) { return pupil.learner->settled(); });
  }

  absl::StatusOr<std::vector<LinearResult>> Finish() {
    return TorchCall("rounding", [&] {
      std::vector<LinearResult> results;
      for (Pupil& pupil : pupils_) {
        LinearResult& result = results.emplace_back();
        result.linear = pupil.learner->Finish();
        result.loss = best_loss_;
        pupil.learner.reset();
      }
      return results;
    });
  }

  BlockJob& job_;
  const nlohmann::json& options_;
  at::Generator generator_;
  std::vector<Pupil> pupils_;
  at::Tensor order_ = at::empty({0}, at::kLong);
  int64_t position_ = 0;
  double first_loss_ = 0, best_loss_ = 0;
};

// Learns one layer's rounding on tr(D H D^T), D the weight's error: the error of its output over
// all of calibration, whose gradient 2 D H needs no forward pass.
absl::StatusOr<LinearResult> LearnLayer(LinearJob& job) {
  const nlohmann::json& options = *job.options;
  if (job.statistics == nullptr) {
    return absl::InternalError(absl::StrCat(job.name, ": adaround was given no statistics"));
  }
  const at::Tensor& hessian = job.statistics->hessian;
  QD_RETURN_IF_ERROR(CheckFinite(absl::StrCat(job.name, ".weight"), job.weight));
  QD_RETURN_IF_ERROR(
      CheckFinite(absl::StrCat("the inputs of ", job.name, " during calibration"), hessian));
  const at::Tensor weight = job.weight.to(hessian.device());
  const IntegerScheme scheme = IntegerSchemeOf(options, weight.size(1));
  const RangeGrid grid = FirstGrid(weight, scheme, options, hessian.diagonal().contiguous());
  const std::unique_ptr<RoundingLearner> learner = MakeLearner(weight, grid, options);
  const int64_t steps = StepsOf(options);
  double best = 0, first = 1;
  for (int64_t step = 0; step < steps; ++step) {
    const at::Tensor error = learner->Weight() - weight;
    const at::Tensor slope = at::matmul(error, hessian);
    const double loss = (slope * error).sum(at::kDouble).item<double>() / 2;
    if (step == 0) first = std::max(loss, 1e-30);
    if (step > 0 && loss < best) learner->Keep();
    if (step == 0 || loss < best) best = loss;
    // Relative to where it began, so that adaround's regularization means the same everywhere.
    const double scale = static_cast<double>(weight.numel()) / first;
    learner->Step(slope * scale, static_cast<double>(step) / static_cast<double>(steps));
    if (!IsSignRound(options) && step % kSettledEvery == 0 && learner->settled()) break;
  }
  QuantizedLinear linear = learner->Finish();
  QD_ASSIGN_OR_RETURN(const at::Tensor decoded, linear.Dequantize(at::kFloat));
  const at::Tensor error = decoded.to(hessian.device()) - weight;
  LinearResult result;
  result.loss = (at::matmul(error, hessian) * error).sum(at::kDouble).item<double>() / 2;
  result.linear = std::move(linear);
  return result;
}

class AdaRound : public Method {
 public:
  const MethodInfo& Info() const override {
    static const auto& info = *new MethodInfo{
        .name = "adaround",
        .summary =
            "Rounding learned by gradient descent on block outputs (SignRound, AdaRound): "
            "the best quality, tens of minutes.",
        .options = Options(),
        .formats = IntegerFormats(),
        .needs_calibration = true,
        .reference = "https://arxiv.org/abs/2309.05516, https://arxiv.org/abs/2004.10568"};
    return info;
  }

  CalibrationNeeds Needs(const nlohmann::json& options) const override {
    if (options.at("objective") == "layer") return {.inputs = true, .hessian = true};
    // A head is no part of a block: it is learned by itself.
    const bool head = options.at("quantize_head").get<bool>();
    return {.inputs = true, .hessian = head, .original = true, .block_copies = 4};
  }

  absl::StatusOr<std::vector<LinearResult>> QuantizeBlock(BlockJob& job) const override {
    if (job.linears().empty()) return std::vector<LinearResult>();
    const nlohmann::json& options = *job.linears().front().options;
    if (options.at("objective") == "layer") return std::vector<LinearResult>();
    return BlockLearning(job, options).Run();
  }

  absl::StatusOr<LinearResult> Quantize(LinearJob job) const override {
    return TorchCall(absl::StrCat("rounding ", job.name), [&] { return LearnLayer(job); });
  }
};

}  // namespace

const Method* AdaRoundMethod() {
  static const AdaRound method;
  return &method;
}

}  // namespace quantd::engine
