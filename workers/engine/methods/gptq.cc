// GPTQ (Frantar, Ashkboos, Hoefler, Alistarh, 2022): columns are quantized one after another, each
// column's error is pushed onto the columns not yet done, weighted by the inverse of the inputs'
// second moments H. Needs calibration. Where H cannot be factored even with damping, the module is
// rounded to nearest and the result says so.
#include "workers/engine/methods/gptq.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_solve_triangular.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/methods/column_order.h"
#include "workers/engine/methods/common.h"
#include "workers/engine/methods/tensor_spans.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/kernels.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// Damping grows to below this share of H's mean diagonal; more would be rounding to nearest with
// extra steps.
constexpr double kDampingLimit = 1.0;
// Then this share of the largest diagonal element is added, ten times more each time, this often.
constexpr double kDiagonalFloor = 1e-6;
constexpr int kDiagonalFloorSteps = 6;

// The defaults, by KL divergence from bf16 on ref-17m (128 x 512 tokens of calibration, first 100
// windows of WikiText-2; symmetric, group 128; rtn 0.0412 / 0.1979 / 1.4109 at 4 / 3 / 2 bits):
//
//   act_group_aware (default)  .0313 / .1476 / 1.011    with scale_search (default)  .0258 / .1045
//   / .5306 desc_act                   .0295 / .1440            with scale_search            .0257
//   / .1053 / .5339 desc_act, static_groups    .0314 / .1471            with scale_search .0270 /
//   .1075 none of them               .0325 damp_percent .01           .0331
//
// So the order that costs nothing at run time is as good as desc_act once scales are searched.
std::vector<OptionInfo> GptqOptions() {
  std::vector<OptionInfo> options = IntegerOptions();
  const auto flag = [&](const char* name, bool value, const char* help, bool whole_job = false) {
    options.push_back({name, OptionType::kBool, value, {}, {}, {}, help, whole_job});
  };
  flag("desc_act", false,
       "Quantize columns in the order of falling activation. Without static_groups groups are made "
       "in that "
       "order, which costs a gather at run time.");
  flag("static_groups", false,
       "With desc_act: scales come from the original columns before any is quantized, so that "
       "groups stay "
       "contiguous and nothing is lost at run time.");
  flag(
      "act_group_aware", true,
      "Without desc_act: groups, and columns within a group, are quantized in the order of falling "
      "activation; groups stay contiguous and nothing is lost at run time.");
  options.push_back({"damp_percent",
                     OptionType::kFloat,
                     0.05,
                     {},
                     0.0,
                     0.99,
                     "Share of H's mean diagonal that is added to it."});
  options.push_back(
      {"damp_increment",
       OptionType::kFloat,
       0.01,
       {},
       1e-4,
       0.5,
       "First step by which damping grows where H cannot be factored; doubles each time."});
  flag("scale_search", true,
       "Choose each group's scale by the error it leaves instead of its largest weight.");
  flag("true_sequential", true,
       "Within a block, later layers see the outputs of the already quantized earlier ones.",
       /*whole_job=*/true);
  options.push_back({"input_correction",
                     OptionType::kFloat,
                     0.0,
                     {},
                     0.0,
                     1.0,
                     "GPTAQ: share of what the quantized layers before it have changed at a "
                     "layer's input that its weights make up for. The original model runs beside.",
                     /*whole_job=*/true});
  options.push_back(
      {"block_size",
       OptionType::kInt,
       128,
       {32, 64, 128, 256},
       {},
       {},
       "Columns quantized before the columns right of them are updated. Speed, hardly quality."});
  return options;
}

// U upper triangular with U^T U = (H + added * I)^-1 for H in the order given, float32 on H's
// device. H reversed in both directions factors as L L^T; turning L^-1 around again gives U: one
// factorization and one triangular solve instead of three factorizations. Beside H two matrices of
// its size exist at a time.
absl::StatusOr<at::Tensor> InverseFactor(const at::Tensor& hessian, const ColumnOrder& order,
                                         double added) {
  at::Tensor reversed;
  if (order.permutation.defined()) {
    const at::Tensor backwards = order.permutation.flip(0).to(hessian.device());
    reversed = hessian.index_select(0, backwards).index_select(1, backwards);
  } else {
    reversed = hessian.flip({0, 1});
  }
  reversed.diagonal().add_(added);
  auto [factor, info] = at::linalg_cholesky_ex(reversed);
  if (info.item<int>() != 0) return absl::FailedPreconditionError("not positive definite");
  reversed = at::Tensor();
  // Solved in place: a column-major right side is overwritten by the solution.
  at::Tensor inverse = at::eye(factor.size(0), factor.options()).t();
  at::linalg_solve_triangular_out(inverse, factor, inverse, /*upper=*/false);
  factor = at::Tensor();
  const bool sound =
      std::isfinite(inverse.sum().item<double>()) && inverse.diagonal().min().item<double>() > 0;
  if (!sound) return absl::FailedPreconditionError("its inverse is not finite");
  return inverse.flip({0, 1}).contiguous();
}

// What was needed to factor H. `inverse` undefined: nothing helped.
struct Factored {
  at::Tensor inverse;
  double damping = 0;
};

absl::StatusOr<Factored> FactorWithLadder(const LinearJob& job, const at::Tensor& hessian,
                                          const ColumnOrder& order,
                                          std::vector<FallbackRecord>& fallbacks) {
  const at::Tensor diagonal = hessian.diagonal();
  const double mean = diagonal.mean().item<double>();
  const double largest = diagonal.abs().max().item<double>();
  const double asked = job.options->at("damp_percent").get<double>();
  double step = job.options->at("damp_increment").get<double>();
  double damping = asked;
  for (; damping < kDampingLimit; damping += step, step *= 2) {
    absl::StatusOr<at::Tensor> inverse = InverseFactor(hessian, order, damping * mean);
    if (inverse.ok()) {
      if (damping != asked) {
        fallbacks.push_back({"damping", job.name,
                             absl::StrCat("the Hessian could not be factored with damp_percent ",
                                          asked, "; ", damping, " was used")});
      }
      return Factored{*inverse, damping};
    }
    if (inverse.status().code() != absl::StatusCode::kFailedPrecondition) return inverse.status();
  }
  double floor = kDiagonalFloor * largest;
  for (int i = 0; i < kDiagonalFloorSteps; ++i, floor *= 10) {
    absl::StatusOr<at::Tensor> inverse =
        InverseFactor(hessian, order, kDampingLimit * mean + floor);
    if (inverse.ok()) {
      fallbacks.push_back(
          {"diagonal_floor", job.name,
           absl::StrCat("no damp_percent below 1 made the Hessian positive definite; ", floor,
                        " was added to its diagonal on top")});
      return Factored{*inverse, kDampingLimit};
    }
    if (inverse.status().code() != absl::StatusCode::kFailedPrecondition) return inverse.status();
  }
  return Factored{};
}

// Scales by the error as the algorithm counts it, in which a column's square weighs 1 / U_ii^2.
ScaleSearch SearchFor(const at::Tensor& inverse, const nlohmann::json& options) {
  if (!options.at("scale_search").get<bool>()) return {};
  return {.steps = kScaleSearchSteps,
          .column_weights = inverse.diagonal().square().reciprocal().contiguous()};
}

// GPTAQ (Li, Yin, Lee, Xiao, Panda, 2025) quantizes W for inputs X that are no longer the original
// Y: it minimizes |W Y - Q X|^2 instead of |W X - Q X|^2. That is |(W + W (Y - X) X^T H^-1) X -
// Q X|^2 and what no Q can change, so that correcting W first and quantizing as ever solves it; the
// paper corrects column by column, which leaves out what columns in front could have taken. `share`
// damps it, since the drift is known from calibration text alone. W [N, K] and `inverse` are in the
// order given, `drift` is not.
at::Tensor CorrectForDrift(const at::Tensor& weight, const at::Tensor& drift, double share,
                           const at::Tensor& inverse, const ColumnOrder& order) {
  const at::Device device = drift.device();
  at::Tensor ordered = drift;
  if (order.permutation.defined()) {
    const at::Tensor permutation = order.permutation.to(device);
    ordered = drift.index_select(0, permutation).index_select(1, permutation);
  }
  const at::Tensor factor = inverse.to(device);
  at::Tensor missing = at::matmul(weight.to(device), ordered);
  missing = at::matmul(at::matmul(missing, factor.t()), factor);
  return weight + missing.to(weight.device()) * share;
}

// Algorithm 1 over `weight` [N, K] with its columns already in order; fills scales, zeros and (in
// that order) codes. All tensors but the order's are on the weight's device.
double QuantizeColumns(const at::Tensor& weight, const at::Tensor& inverse,
                       const ColumnOrder& order, const IntegerScheme& scheme,
                       const ScaleSearch& search, int64_t block_size, QuantizedLinear& linear,
                       const at::Tensor& codes) {
  const int64_t rows = weight.size(0);
  const int64_t columns = weight.size(1);
  const int64_t group = scheme.group_columns;
  const at::Device device = weight.device();
  const at::Tensor errors = at::empty({rows, block_size}, weight.options());
  const at::Tensor losses = at::zeros({rows}, weight.options().dtype(at::kDouble));
  const at::Tensor groups_there = order.group_of_column.to(device);
  const int32_t* group_of_column = groups_there.const_data_ptr<int32_t>();
  const kernels::Backend& kernels = KernelsOn(device);
  for (int64_t begin = 0; begin < columns; begin += block_size) {
    const int64_t end = std::min(begin + block_size, columns);
    // A group wider than the block gets its scale where it begins, from all of its columns as they
    // are now.
    const bool wide = group > block_size;
    if (!order.static_groups && wide && begin % group == 0) {
      const int32_t index = order.group_of_column.const_data_ptr<int32_t>()[begin];
      kernels.find_params({.weight = weight.const_data_ptr<float>() + begin,
                           .weight_stride = columns,
                           .rows = rows,
                           .columns = group,
                           .group_columns = group,
                           .bits = scheme.bits,
                           .symmetric = scheme.symmetric,
                           .search_steps = search.steps,
                           .column_weights = search.Weights(begin),
                           .scales = MutableHalfBits(linear.scales) + index,
                           .zeros = linear.zeros.mutable_data_ptr<uint8_t>() + index,
                           .params_stride = linear.groups(),
                           .stream = StreamOn(device)});
    }
    kernels.gptq_block({.rows = rows,
                        .columns = end - begin,
                        .bits = scheme.bits,
                        .symmetric = scheme.symmetric,
                        .find_columns = order.static_groups || wide ? 0 : group,
                        .search_steps = search.steps,
                        .column_weights = search.Weights(begin),
                        .weight = weight.mutable_data_ptr<float>() + begin,
                        .weight_stride = columns,
                        .inverse = inverse.const_data_ptr<float>() + begin * columns + begin,
                        .inverse_stride = columns,
                        .group_of_column = group_of_column + begin,
                        .scales = MutableHalfBits(linear.scales),
                        .zeros = linear.zeros.mutable_data_ptr<uint8_t>(),
                        .params_stride = linear.groups(),
                        .codes = codes.mutable_data_ptr<uint8_t>() + begin,
                        .codes_stride = columns,
                        .errors = errors.mutable_data_ptr<float>(),
                        .errors_stride = block_size,
                        .losses = losses.mutable_data_ptr<double>(),
                        .stream = StreamOn(device)});
    if (end < columns) {
      at::Tensor rest = weight.narrow(1, end, columns - end);
      rest.addmm_(errors.narrow(1, 0, end - begin),
                  inverse.narrow(0, begin, end - begin).narrow(1, end, columns - end), 1, -1);
    }
  }
  return losses.sum().item<double>();
}

class GptqMethod : public Method {
 public:
  const MethodInfo& Info() const override {
    static const auto& info = *new MethodInfo{
        .name = "gptq",
        .summary =
            "Error-compensated rounding from calibration data; minutes, better than rtn at "
            "4 bits and below.",
        .options = GptqOptions(),
        .formats = IntegerFormats(),
        .needs_calibration = true,
        .reference = "https://arxiv.org/abs/2210.17323",
        .on_device = true,
        .rows_apart = true};
    return info;
  }

  LinearScheme Scheme(absl::string_view name, int64_t outputs, int64_t inputs,
                      const nlohmann::json& options) const override {
    LinearScheme scheme = Method::Scheme(name, outputs, inputs, options);
    scheme.ordered_groups = !options.at("desc_act").get<bool>() ||
                            options.at("static_groups").get<bool>() || scheme.group_size == -1;
    return scheme;
  }

  absl::Status CheckOptions(const nlohmann::json& options) const override {
    if (options.at("static_groups").get<bool>() && !options.at("desc_act").get<bool>()) {
      return absl::InvalidArgumentError(
          "static_groups means something only together with desc_act: set desc_act, or leave both "
          "off");
    }
    return absl::OkStatus();
  }

  CalibrationNeeds Needs(const nlohmann::json& options) const override {
    CalibrationNeeds needs = Method::Needs(options);
    needs.drift = needs.original = options.at("input_correction").get<double>() > 0;
    return needs;
  }

  absl::StatusOr<LinearResult> Quantize(LinearJob job) const override {
    return TorchCall(absl::StrCat("quantizing ", job.name), [&] { return QuantizeOrThrow(job); });
  }

 private:
  static absl::StatusOr<LinearResult> QuantizeOrThrow(LinearJob& job) {
    if (job.statistics == nullptr) {
      return absl::InternalError(absl::StrCat(job.name, ": gptq was given no statistics"));
    }
    at::Tensor weight = job.weight.contiguous();
    const at::Device device = weight.device();
    QD_RETURN_IF_ERROR(CheckFinite(absl::StrCat(job.name, ".weight"), weight));
    const int64_t columns = weight.size(1);
    const IntegerScheme scheme = IntegerSchemeOf(*job.options, columns);
    LinearResult result;
    QuantizedLinear linear = EmptyLinear(scheme, weight.size(0), columns, device);

    at::Tensor hessian = job.statistics->hessian;
    // Columns that calibration never reached carry no error whatever their weight; zero costs
    // nothing.
    const at::Tensor dead = hessian.diagonal() == 0;
    if (dead.any().item<bool>()) {
      hessian = hessian + dead.to(at::kFloat).diag();
      weight = weight.masked_fill(dead.to(device), 0);
    }
    QD_RETURN_IF_ERROR(
        CheckFinite(absl::StrCat("the inputs of ", job.name, " during calibration"), hessian));

    const ColumnOrder order = OrderColumns(hessian.diagonal().to(at::kCPU), scheme, *job.options);
    QD_ASSIGN_OR_RETURN(Factored factored, FactorWithLadder(job, hessian, order, result.fallbacks),
                        job.name);
    hessian = at::Tensor();
    if (!factored.inverse.defined()) {
      result.fallbacks.push_back(
          {"rtn", job.name,
           "the Hessian could not be factored at all; the module was rounded "
           "to nearest"});
      RoundToNearest(weight, scheme, {}, linear);
      result.linear = linear.To(at::kCPU);
      return result;
    }
    result.damping = factored.damping;
    factored.inverse = factored.inverse.to(device);
    ScaleSearch search = SearchFor(factored.inverse, *job.options);
    if (order.permutation.defined()) {
      weight = weight.index_select(1, order.permutation.to(device));
    }
    const double share = job.options->at("input_correction").get<double>();
    if (share > 0 && job.statistics->drift.defined()) {
      weight = CorrectForDrift(weight, job.statistics->drift, share, factored.inverse, order);
    }
    if (order.static_groups) {
      ScaleSearch unordered = search;
      const at::Tensor back = at::argsort(order.permutation).to(device);
      if (search.column_weights.defined()) {
        unordered.column_weights = search.column_weights.index_select(0, back);
      }
      FindScales(weight.index_select(1, back), scheme, unordered, linear);
    }
    const at::Tensor codes =
        order.permutation.defined() ? at::empty_like(linear.codes) : linear.codes;
    result.loss = QuantizeColumns(weight, factored.inverse, order, scheme, search,
                                  job.options->at("block_size").get<int64_t>(), linear, codes);
    if (order.permutation.defined()) {
      const at::Tensor back = at::argsort(order.permutation);
      linear.codes = codes.index_select(1, back.to(device)).contiguous();
      linear.group_index = order.group_of_column.index_select(0, back).contiguous();
    }
    result.linear = linear.To(at::kCPU);
    return result;
  }
};

}  // namespace

const Method* Gptq() {
  static const GptqMethod method;
  return &method;
}

}  // namespace quantd::engine
