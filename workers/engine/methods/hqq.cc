// The solver is kernels/hqq_groups.h, in float32 as the reference program runs it on a CPU. Scales
// and zeros are rounded to the compute type afterwards, as there. Refuses groups that do not divide
// the side they lie along.
#include "workers/engine/methods/hqq.h"

#include <ATen/ops/isfinite.h>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/methods/common.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/kernels.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

constexpr int64_t kGroupSizes[] = {16, 32, 64, 128};

std::vector<OptionInfo> HqqOptions() {
  return {
      {.name = "bits",
       .type = OptionType::kInt,
       .default_value = 4,
       .allowed = {2, 3, 4, 8},
       .minimum = {},
       .maximum = {},
       .help = "Bits a weight."},
      {.name = "group_size",
       .type = OptionType::kInt,
       .default_value = 64,
       .allowed = {-1, 16, 32, 64, 128},
       .minimum = {},
       .maximum = {},
       .help = "Weights that share a scale and a zero; -1: a whole row (axis 1) or column (axis "
               "0)."},
      {.name = "axis",
       .type = OptionType::kInt,
       .default_value = 1,
       .allowed = {0, 1},
       .minimum = {},
       .maximum = {},
       .help = "1: groups along the inputs, which fast kernels want; 0: along the outputs, which "
               "is often better at 3 bits and below."},
      {.name = "optimize",
       .type = OptionType::kBool,
       .default_value = true,
       .allowed = {},
       .minimum = {},
       .maximum = {},
       .help = "Move the zeros so that the p-norm of the error falls; off: round to nearest."},
      {.name = "iterations",
       .type = OptionType::kInt,
       .default_value = 20,
       .allowed = {},
       .minimum = 1,
       .maximum = 1000,
       .help = "Steps of the solver at most; it stops when the mean error no longer falls."},
      {.name = "compute_dtype",
       .type = OptionType::kString,
       .default_value = "float16",
       .allowed = {"float16", "bfloat16", "float32"},
       .minimum = {},
       .maximum = {},
       .help = "Type of the stored scales and zeros, and in which readers compute."},
  };
}

class HqqMethod : public Method {
 public:
  const MethodInfo& Info() const override {
    static const auto& info = *new MethodInfo{
        .name = "hqq",
        .summary = "Half-quadratic quantization: seconds, no data, close to calibrated methods.",
        .options = HqqOptions(),
        .formats = {"hqq", "gguf", "hf", "pytorch"},
        .needs_calibration = false,
        .reference = "https://mobiusml.github.io/hqq_blog/",
        .on_device = true};
    return info;
  }

  LinearScheme Scheme(absl::string_view name, int64_t outputs, int64_t inputs,
                      const nlohmann::json& options) const override {
    const int axis = options.at("axis").get<int>();
    const int64_t group = options.at("group_size").get<int64_t>();
    return {.module = std::string(name),
            .outputs = outputs,
            .inputs = inputs,
            .bits = options.at("bits").get<int>(),
            .group_size = group == -1 && axis == 0 && outputs > 0 ? outputs : group,
            .symmetric = false,
            .type = options.at("compute_dtype").get<std::string>(),
            .axis = axis,
            .integer_zeros = false};
  }

  absl::Status CheckLinear(absl::string_view name, int64_t outputs, int64_t inputs,
                           const nlohmann::json& options) const override {
    const int64_t group = options.at("group_size").get<int64_t>();
    const bool along_inputs = options.at("axis") == 1;
    const int64_t side = along_inputs ? inputs : outputs;
    if (group == -1 || side % group == 0) return absl::OkStatus();
    std::string fitting = "-1";
    for (const int64_t size : kGroupSizes) {
      if (side % size == 0) absl::StrAppend(&fitting, ", ", size);
    }
    return absl::InvalidArgumentError(absl::StrCat(
        name, ".weight has ", side, along_inputs ? " input columns" : " output rows",
        ", which group_size ", group, " does not divide; group sizes that do: ", fitting));
  }

  absl::StatusOr<LinearResult> Quantize(LinearJob job) const override {
    return TorchCall(absl::StrCat("quantizing ", job.name), [&] { return QuantizeOrThrow(job); });
  }

 private:
  static absl::StatusOr<LinearResult> QuantizeOrThrow(const LinearJob& job) {
    const nlohmann::json& options = *job.options;
    const at::Tensor weight = job.weight.contiguous();
    const at::Device device = weight.device();
    QD_RETURN_IF_ERROR(CheckFinite(absl::StrCat(job.name, ".weight"), weight));
    const int64_t outputs = weight.size(0);
    const int64_t inputs = weight.size(1);
    const int axis = options.at("axis").get<int>();
    int64_t group = options.at("group_size").get<int64_t>();
    if (group == -1) group = axis == 1 ? inputs : outputs;
    const int64_t groups = weight.numel() / group;
    const std::vector<int64_t> shape = axis == 1 ? std::vector<int64_t>{outputs, inputs / group}
                                                 : std::vector<int64_t>{outputs / group, inputs};
    const at::Tensor scales = at::empty(shape, weight.options());
    const at::Tensor zeros = at::empty(shape, weight.options());
    const at::TensorOptions bytes = weight.options().dtype(at::kByte);
    const at::Tensor scratch =
        device.is_cpu() ? at::Tensor() : at::empty({kernels::HqqScratchBytes(groups)}, bytes);
    QuantizedLinear linear = {.bits = options.at("bits").get<int>(),
                              .group_size = options.at("group_size").get<int64_t>(),
                              .symmetric = false,
                              .codes = at::empty({outputs, inputs}, bytes),
                              .axis = axis};
    KernelsOn(device).hqq_groups(
        {.weight = weight.const_data_ptr<float>(),
         .rows = axis == 1 ? groups : group,
         .columns = axis == 1 ? group : groups,
         .axis = axis,
         .bits = linear.bits,
         .round_zero = linear.bits == 4,  // The reference's default for every width.
         .iterations = options.at("optimize").get<bool>() ? options.at("iterations").get<int>() : 0,
         .scales = scales.mutable_data_ptr<float>(),
         .zeros = zeros.mutable_data_ptr<float>(),
         .codes = linear.codes.mutable_data_ptr<uint8_t>(),
         .scratch = scratch.defined() ? scratch.mutable_data_ptr() : nullptr,
         .stream = StreamOn(device)});
    QD_ASSIGN_OR_RETURN(const at::ScalarType dtype,
                        ParseComputeDtype(options.at("compute_dtype").get<std::string>()));
    linear.scales = scales.to(dtype);
    linear.zeros = zeros.to(dtype);
    if (axis == 0) linear.group_size = group;
    if (axis == 1) linear.group_index = OrderedGroups(inputs, group).to(device);
    if (!at::isfinite(linear.zeros).all().item<bool>()) {
      return absl::InvalidArgumentError(absl::StrCat(
          job.name, ": a group lies so far from zero that its zero point does not fit ",
          ComputeDtypeName(dtype), "; use compute_dtype float32"));
    }
    return WithRoundingLoss(std::move(linear), weight);
  }
};

}  // namespace

const Method* Hqq() {
  static const HqqMethod method;
  return &method;
}

}  // namespace quantd::engine
