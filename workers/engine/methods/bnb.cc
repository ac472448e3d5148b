// What bitsandbytes computes, through kernels/codebook_blocks.h and int8_rows.h: its codes and
// scales bit for bit, but for double quantization: its offset is a mean that bitsandbytes sums in
// an order of its machine's and this file in double precision, and its 8-bit codes are the nearest,
// as on GPUs, where bitsandbytes' CPU library looks up an approximation.
#include "workers/engine/methods/bnb.h"

#include <ATen/ops/from_blob.h>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/table.h"
#include "workers/engine/methods/common.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/kernels.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

constexpr int64_t kScaleBlock = 256;  // bitsandbytes knows no other for double quantization.

const kernels::Codebook& CodebookOf(absl::string_view type) {
  return type == "fp4" ? kernels::Fp4Codebook() : kernels::Nf4Codebook();
}

at::Tensor Table(const kernels::Codebook& book) {
  return at::from_blob(const_cast<float*>(book.values), {book.entries}, at::kFloat).clone();
}

// Codes and absmax of the flattened `values` (float32, contiguous), where they are.
struct Blocks {
  at::Tensor codes;   // uint8, like `values`.
  at::Tensor absmax;  // float32 [blocks]
};
Blocks QuantizeBlocks(const at::Tensor& values, int64_t block_size, const kernels::Codebook& book) {
  const int64_t count = values.numel();
  const at::Device device = values.device();
  Blocks blocks = {.codes = at::empty(values.sizes(), values.options().dtype(at::kByte)),
                   .absmax = at::empty({(count + block_size - 1) / block_size}, values.options())};
  KernelsOn(device).quantize_codebook({.values = values.const_data_ptr<float>(),
                                       .count = count,
                                       .block_size = block_size,
                                       .codebook = &book,
                                       .absmax = blocks.absmax.mutable_data_ptr<float>(),
                                       .codes = blocks.codes.mutable_data_ptr<uint8_t>(),
                                       .stream = StreamOn(device)});
  return blocks;
}

// On the CPU, wherever `absmax` is: their mean is then summed in the same order, and they are few.
QuantizedScales QuantizeScales(const at::Tensor& of_blocks) {
  const at::Tensor absmax = of_blocks.to(at::kCPU);
  const at::Tensor offset = absmax.mean(at::kDouble).to(at::kFloat);
  const kernels::Codebook& book = kernels::DynamicCodebook();
  const Blocks blocks = QuantizeBlocks(absmax - offset, kScaleBlock, book);
  return {.codes = blocks.codes,
          .codebook = Table(book),
          .absmax = blocks.absmax,
          .offset = offset.item<float>(),
          .block_size = kScaleBlock};
}

std::vector<OptionInfo> FourBitOptions() {
  return {
      {.name = "quant_type",
       .type = OptionType::kString,
       .default_value = "nf4",
       .allowed = {"nf4", "fp4"},
       .minimum = {},
       .maximum = {},
       .help = "nf4: quantiles of the normal distribution; fp4: four-bit floats, nearly always "
               "worse."},
      {.name = "block_size",
       .type = OptionType::kInt,
       .default_value = 64,
       .allowed = {32, 64, 128, 256, 512, 1024, 2048, 4096},
       .minimum = {},
       .maximum = {},
       .help = "Weights that share a scale, counted along the flattened matrix."},
      {.name = "double_quant",
       .type = OptionType::kBool,
       .default_value = true,
       .allowed = {},
       .minimum = {},
       .maximum = {},
       .help = "Store the scales in 8 bits too: 4.13 instead of 4.5 bits a weight with blocks of "
               "64."},
      {.name = "compute_dtype",
       .type = OptionType::kString,
       .default_value = "bfloat16",
       .allowed = {"bfloat16", "float16", "float32"},
       .minimum = {},
       .maximum = {},
       .help = "In which readers multiply; changes no stored code."},
  };
}

class Bnb4BitMethod : public Method {
 public:
  const MethodInfo& Info() const override {
    static const auto& info =
        *new MethodInfo{.name = "bnb_4bit",
                        .summary = "NF4 or FP4 codes as bitsandbytes makes them: seconds, no data.",
                        .options = FourBitOptions(),
                        .formats = {"bitsandbytes", "gguf", "hf", "pytorch"},
                        .needs_calibration = false,
                        .reference = "https://arxiv.org/abs/2305.14314",
                        .on_device = true};
    return info;
  }

  LinearScheme Scheme(absl::string_view name, int64_t outputs, int64_t inputs,
                      const nlohmann::json& options) const override {
    return {.module = std::string(name),
            .outputs = outputs,
            .inputs = inputs,
            .bits = 4,
            .group_size = options.at("block_size").get<int64_t>(),
            .symmetric = false,
            .encoding = Encoding::kCodebook,
            .type = options.at("quant_type").get<std::string>(),
            .double_quantized = options.at("double_quant").get<bool>()};
  }

  absl::Status CheckLinear(absl::string_view name, int64_t outputs, int64_t inputs,
                           const nlohmann::json& options) const override {
    return absl::OkStatus();  // Blocks may straddle rows, and the last may be short.
  }

  absl::StatusOr<LinearResult> Quantize(LinearJob job) const override {
    return TorchCall(absl::StrCat("quantizing ", job.name), [&]() -> absl::StatusOr<LinearResult> {
      const at::Tensor weight = job.weight.contiguous();
      QD_RETURN_IF_ERROR(CheckFinite(absl::StrCat(job.name, ".weight"), weight));
      CodebookLinear linear;
      linear.type = job.options->at("quant_type").get<std::string>();
      linear.block_size = job.options->at("block_size").get<int64_t>();
      QD_ASSIGN_OR_RETURN(linear.compute_dtype,
                          ParseComputeDtype(job.options->at("compute_dtype").get<std::string>()));
      const kernels::Codebook& book = CodebookOf(linear.type);
      const Blocks blocks = QuantizeBlocks(weight, linear.block_size, book);
      linear.codes = blocks.codes;
      linear.codebook = Table(book);
      if (job.options->at("double_quant").get<bool>()) {
        linear.nested = QuantizeScales(blocks.absmax);
      } else {
        linear.absmax = blocks.absmax;
      }
      return WithRoundingLoss(linear.To(weight.device()), weight);
    });
  }
};

class Bnb8BitMethod : public Method {
 public:
  const MethodInfo& Info() const override {
    static const auto& info = *new MethodInfo{
        .name = "bnb_8bit",
        .summary = "LLM.int8: 8-bit rows, 8-bit inputs, columns with outliers in 16 bits; no data.",
        .options = {{.name = "threshold",
                     .type = OptionType::kFloat,
                     .default_value = 6.0,
                     .allowed = {},
                     .minimum = 0,
                     .maximum = 1e6,
                     .help = "Input columns with a value of at least this size are multiplied in "
                             "16 bits; 0: none are."}},
        .formats = {"bitsandbytes", "hf", "pytorch"},
        .needs_calibration = false,
        .reference = "https://arxiv.org/abs/2208.07339"};
    return info;
  }

  LinearScheme Scheme(absl::string_view name, int64_t outputs, int64_t inputs,
                      const nlohmann::json& options) const override {
    return {.module = std::string(name),
            .outputs = outputs,
            .inputs = inputs,
            .bits = 8,
            .group_size = -1,
            .input = InputKind::kLlmInt8};
  }

  absl::StatusOr<LinearResult> Quantize(LinearJob job) const override {
    return TorchCall(absl::StrCat("quantizing ", job.name), [&]() -> absl::StatusOr<LinearResult> {
      const at::Tensor original = job.weight.to(at::kCPU);
      // bitsandbytes takes the weight in float16.
      const at::Tensor weight = original.to(at::kHalf).to(at::kFloat).contiguous();
      QD_RETURN_IF_ERROR(CheckFinite(absl::StrCat(job.name, ".weight in float16"), weight));
      const int64_t outputs = weight.size(0);
      const int64_t inputs = weight.size(1);
      const at::Tensor absmax = at::empty({outputs, 1}, at::kFloat);
      QuantizedLinear linear = {.bits = 8,
                                .codes = at::empty({outputs, inputs}, at::kByte),
                                .zeros = at::full({outputs, 1}, 128, at::kByte),
                                .group_index = at::zeros({inputs}, at::kInt)};
      kernels::Active().backend->int8_rows({.weight = weight.const_data_ptr<float>(),
                                            .weight_stride = inputs,
                                            .rows = outputs,
                                            .columns = inputs,
                                            .absmax = absmax.mutable_data_ptr<float>(),
                                            .codes = linear.codes.mutable_data_ptr<uint8_t>(),
                                            .codes_stride = inputs});
      linear.scales = absmax / 127;
      linear.input = {.kind = InputKind::kLlmInt8,
                      .outlier_threshold = job.options->at("threshold").get<double>()};
      return WithRoundingLoss(std::move(linear), original.to(at::kFloat));
    });
  }
};

}  // namespace

const Method* Bnb4Bit() {
  static const Bnb4BitMethod method;
  return &method;
}

const Method* Bnb8Bit() {
  static const Bnb8BitMethod method;
  return &method;
}

}  // namespace quantd::engine
