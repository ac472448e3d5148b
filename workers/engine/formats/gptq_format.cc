// GPTQ on disk. For a linear P with weight [N, K], instead of P.weight:
//
//   P.qweight int32 [K * bits / 32, N]  codes, packed along K       P.g_idx int32 [K]  group of
//   each column P.qzeros  int32 [G, N * bits / 32]  zeros - 1, packed along N   P.scales float16
//   [G, N]
//
// Packing is kernels/pack_bits.h's dense stream. Zeros are written minus one ("version 1"), which
// every loader takes; none is ever 0, because loaders disagree about how a stored -1 wraps. Version
// 2 is read too. Trusts nothing it reads.
#include "workers/engine/formats/gptq_format.h"

#include <ATen/ops/floor_divide.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "kernels/table.h"
#include "workers/engine/formats/gptq_config.h"
#include "workers/engine/models/weights.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"
#include "workers/engine/tensor/view.h"

namespace quantd::engine {
namespace {

constexpr int64_t kWordBits = 32;

uint32_t* Words(const at::Tensor& tensor) {
  return reinterpret_cast<uint32_t*>(tensor.mutable_data_ptr<int32_t>());
}
const uint32_t* ConstWords(const at::Tensor& tensor) {
  return reinterpret_cast<const uint32_t*>(tensor.const_data_ptr<int32_t>());
}

// qweight: the streams are the rows of codes [N, K]; their words lie in the columns of words [K *
// bits / 32, N]. qzeros: the streams are the columns of codes [N, G]; their words lie in the rows
// of words [G, N * bits / 32].
enum class Along { kInputs, kOutputs };

template <typename Streams, typename Codes, typename Words>
Streams MakeStreams(Along along, const at::Tensor& codes, int bits, Codes* code_data,
                    Words* words) {
  const int64_t n = codes.size(0);
  const int64_t k = codes.size(1);
  const bool inputs = along == Along::kInputs;
  return {.runs = inputs ? n : k,
          .codes_per_run = inputs ? k : n,
          .bits = bits,
          .codes = code_data,
          .run_stride = inputs ? k : 1,
          .code_stride = inputs ? 1 : k,
          .words = words,
          .words_run_stride = inputs ? 1 : n * bits / kWordBits,
          .word_stride = inputs ? n : 1};
}

at::Tensor PackCodes(const at::Tensor& codes, int bits, Along along) {
  const bool inputs = along == Along::kInputs;
  const int64_t words = codes.size(inputs ? 1 : 0) * bits / kWordBits;
  at::Tensor packed = inputs ? at::empty({words, codes.size(0)}, at::kInt)
                             : at::empty({codes.size(1), words}, at::kInt);
  kernels::Active().backend->pack_bits(MakeStreams<kernels::PackBits>(
      along, codes, bits, codes.const_data_ptr<uint8_t>(), Words(packed)));
  return packed;
}

// `codes` uint8 [N, K or G], to be filled.
void UnpackCodes(const at::Tensor& packed, int bits, Along along, const at::Tensor& codes) {
  kernels::Active().backend->unpack_bits(MakeStreams<kernels::UnpackBits>(
      along, codes, bits, codes.mutable_data_ptr<uint8_t>(), ConstWords(packed)));
}

absl::StatusOr<at::Tensor> ReadTensor(const TensorLookup& lookup, const std::string& name,
                                      DType dtype) {
  QD_ASSIGN_OR_RETURN(const TensorView view, lookup(name));
  if (view.dtype != dtype) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is ", DTypeName(view.dtype), " instead of ", DTypeName(dtype)));
  }
  return ViewTensor(view);
}

absl::Status WrongShape(absl::string_view name, const at::Tensor& tensor,
                        absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, " has shape ", ShapeText(tensor.sizes().vec()), " instead of ", wanted));
}

// scales [G, N] in float16; other floating types are converted where nothing overflows.
absl::StatusOr<at::Tensor> ReadScales(const TensorLookup& lookup, const std::string& name) {
  QD_ASSIGN_OR_RETURN(const TensorView view, lookup(name));
  if (view.dtype != DType::kF16 && view.dtype != DType::kBF16 && view.dtype != DType::kF32) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is ", DTypeName(view.dtype), " instead of F16, BF16 or F32"));
  }
  QD_ASSIGN_OR_RETURN(const at::Tensor scales, ViewTensor(view));
  if (scales.dim() != 2 || scales.numel() == 0)
    return WrongShape(name, scales, "[groups, outputs]");
  return scales.to(at::kHalf);
}

// Columns' groups; a file without g_idx has them as they lie.
absl::StatusOr<at::Tensor> ReadGroupIndex(const TensorLookup& lookup, const std::string& name,
                                          int64_t inputs, int64_t group_size) {
  absl::StatusOr<at::Tensor> stored = ReadTensor(lookup, name, DType::kI32);
  if (!stored.ok() && stored.status().code() == absl::StatusCode::kNotFound) {
    const int64_t group = group_size == -1 ? inputs : group_size;
    return at::floor_divide(at::arange(inputs, at::kInt), group).to(at::kInt);
  }
  QD_RETURN_IF_ERROR(stored.status());
  if (stored->dim() != 1 || stored->size(0) != inputs) {
    return WrongShape(name, *stored, absl::StrCat("[", inputs, "]"));
  }
  return stored->clone();
}

absl::StatusOr<QuantizedLinear> UnpackModule(const GptqModule& scheme, absl::string_view module,
                                             const TensorLookup& lookup) {
  const std::string prefix = absl::StrCat(module, ".");
  QD_ASSIGN_OR_RETURN(const at::Tensor qweight,
                      ReadTensor(lookup, prefix + "qweight", DType::kI32));
  QD_ASSIGN_OR_RETURN(const at::Tensor qzeros, ReadTensor(lookup, prefix + "qzeros", DType::kI32));
  QD_ASSIGN_OR_RETURN(const at::Tensor scales, ReadScales(lookup, prefix + "scales"));
  if (qweight.dim() != 2 || qweight.numel() == 0 ||
      qweight.size(0) * kWordBits % scheme.bits != 0) {
    return WrongShape(prefix + "qweight", qweight,
                      absl::StrCat("[inputs * ", scheme.bits, " / 32, outputs]"));
  }
  const int64_t outputs = qweight.size(1);
  const int64_t inputs = qweight.size(0) * kWordBits / scheme.bits;
  const int64_t groups = scales.size(0);
  if (scales.size(1) != outputs) {
    return WrongShape(prefix + "scales", scales, absl::StrCat("[groups, ", outputs, "]"));
  }
  if (outputs * scheme.bits % kWordBits != 0 || qzeros.dim() != 2 || qzeros.size(0) != groups ||
      qzeros.size(1) != outputs * scheme.bits / kWordBits) {
    return WrongShape(prefix + "qzeros", qzeros,
                      absl::StrCat("[", groups, ", ", outputs, " * ", scheme.bits, " / 32]"));
  }
  QuantizedLinear linear = {.bits = scheme.bits,
                            .group_size = scheme.group_size,
                            .symmetric = scheme.symmetric,
                            .codes = at::empty({outputs, inputs}, at::kByte),
                            .scales = scales.t().contiguous(),
                            .zeros = at::empty({outputs, groups}, at::kByte),
                            .group_index = {}};
  QD_ASSIGN_OR_RETURN(linear.group_index,
                      ReadGroupIndex(lookup, prefix + "g_idx", inputs, scheme.group_size));
  UnpackCodes(qweight, scheme.bits, Along::kInputs, linear.codes);
  UnpackCodes(qzeros, scheme.bits, Along::kOutputs, linear.zeros);
  if (scheme.zeros_minus_one) {
    linear.zeros.add_(1).bitwise_and_((1 << scheme.bits) - 1);  // A stored -1 stands for 0.
  }
  QD_RETURN_IF_ERROR(linear.Check(), module);
  return linear;
}

// Decodes linears when they are read; everything else comes from the file as it is.
class GptqWeights : public WeightSource {
 public:
  GptqWeights(std::shared_ptr<const Checkpoint> checkpoint, nlohmann::json configuration)
      : checkpoint_(checkpoint), plain_(checkpoint), configuration_(std::move(configuration)) {}

  bool Has(absl::string_view name) const override {
    return plain_.Has(name) || !Module(name).empty();
  }

  absl::StatusOr<std::vector<int64_t>> Shape(absl::string_view name) const override {
    const std::string module = Module(name);
    if (module.empty()) return plain_.Shape(name);
    QD_ASSIGN_OR_RETURN(const GptqModule scheme, ReadGptqConfiguration(configuration_, module));
    QD_ASSIGN_OR_RETURN(const TensorView words, checkpoint_->Find(module + ".qweight"));
    if (words.shape.size() != 2) {
      return absl::InvalidArgumentError(absl::StrCat(
          module, ".qweight has shape ", ShapeText(words.shape), " instead of two dimensions"));
    }
    return std::vector<int64_t>{words.shape[1], words.shape[0] * kWordBits / scheme.bits};
  }

  absl::StatusOr<at::Tensor> Read(absl::string_view name) const override {
    const std::string module = Module(name);
    if (module.empty()) return plain_.Read(name);
    QD_ASSIGN_OR_RETURN(const QuantizedWeight linear,
                        GptqFormat()->Unpack(configuration_, module, [&](absl::string_view tensor) {
                          return checkpoint_->Find(tensor);
                        }));
    Release(name);
    return Dequantize(linear, at::kFloat);
  }

  std::string Where(absl::string_view name) const override {
    const std::string module = Module(name);
    return plain_.Where(module.empty() ? std::string(name) : module + ".qweight");
  }

  void Release(absl::string_view name) const override {
    const std::string module = Module(name);
    if (module.empty()) return plain_.Release(name);
    for (const char* suffix : {".qweight", ".qzeros", ".scales", ".g_idx"}) {
      if (checkpoint_->Has(module + suffix)) checkpoint_->ReleasePages(module + suffix);
    }
  }

 private:
  // The quantized module whose weight `name` is; empty when it is none.
  std::string Module(absl::string_view name) const {
    if (!absl::ConsumeSuffix(&name, ".weight")) return "";
    return checkpoint_->Has(absl::StrCat(name, ".qweight")) ? std::string(name) : "";
  }

  std::shared_ptr<const Checkpoint> checkpoint_;
  CheckpointWeights plain_;
  nlohmann::json configuration_;
};

class GptqFormatImpl : public Format {
 public:
  const FormatInfo& Info() const override {
    static const auto& info = *new FormatInfo{
        .name = "gptq",
        .summary = "GPTQ version 1: 2, 3, 4 or 8 bits in int32 words, float16 scales",
        .loaders = {"transformers", "vllm", "sglang", "gptqmodel"},
        .config_file = "quantize_config.json"};
    return info;
  }

  absl::Status Supports(const LinearScheme& scheme) const override {
    const bool packs = scheme.bits == 2 || scheme.bits == 3 || scheme.bits == 4 || scheme.bits == 8;
    if (scheme.encoding != Encoding::kAffine || scheme.axis != 1 || !scheme.integer_zeros ||
        scheme.input != InputKind::kFloat || !packs) {
      return absl::InvalidArgumentError(
          absl::StrCat(scheme.module,
                       ": format gptq holds 2-, 3-, 4- or 8-bit codes with whole zero points in "
                       "groups along the inputs, and full-precision inputs; not ",
                       SchemeToJson(scheme).dump()));
    }
    const auto check = [&](absl::string_view side, int64_t size) -> absl::Status {
      if (size * scheme.bits % kWordBits == 0) return absl::OkStatus();
      const int64_t step = scheme.bits == 3 ? kWordBits : kWordBits / scheme.bits;
      return absl::InvalidArgumentError(
          absl::StrCat(scheme.module, ".weight has ", size, " ", side, ", but format gptq packs ",
                       scheme.bits, "-bit codes in int32 words and needs a multiple of ", step,
                       "; use other bits or skip the module"));
    };
    QD_RETURN_IF_ERROR(check("input columns", scheme.inputs));
    return check("output rows", scheme.outputs);
  }

  std::vector<TensorInfo> Describe(const LinearScheme& scheme) const override {
    const int64_t group = scheme.group_size == -1 ? scheme.inputs : scheme.group_size;
    const int64_t groups = scheme.inputs / group;
    return {
        {scheme.module + ".qweight",
         DType::kI32,
         {scheme.inputs * scheme.bits / kWordBits, scheme.outputs}},
        {scheme.module + ".qzeros",
         DType::kI32,
         {groups, scheme.outputs * scheme.bits / kWordBits}},
        {scheme.module + ".scales", DType::kF16, {groups, scheme.outputs}},
        {scheme.module + ".g_idx", DType::kI32, {scheme.inputs}},
    };
  }

  absl::StatusOr<std::vector<NamedTensor>> Pack(absl::string_view module,
                                                const QuantizedWeight& weight) const override {
    return TorchCall(
        absl::StrCat("packing ", module), [&]() -> absl::StatusOr<std::vector<NamedTensor>> {
          QD_RETURN_IF_ERROR(Check(weight), module);
          QD_RETURN_IF_ERROR(Supports(SchemeOf(module, weight)));
          const auto& linear = std::get<QuantizedLinear>(weight);
          if (linear.zeros.min().item<int64_t>() < 1) {
            return absl::InternalError(
                absl::StrCat(module, ": a zero point of 0 cannot be written in format gptq"));
          }
          const std::string prefix = absl::StrCat(module, ".");
          return std::vector<NamedTensor>{
              {prefix + "qweight", PackCodes(linear.codes, linear.bits, Along::kInputs)},
              {prefix + "qzeros", PackCodes(linear.zeros - 1, linear.bits, Along::kOutputs)},
              {prefix + "scales", linear.scales.t().to(at::kHalf).contiguous()},
              {prefix + "g_idx", linear.group_index}};
        });
  }

  absl::StatusOr<QuantizedWeight> Unpack(const nlohmann::json& configuration,
                                         absl::string_view module,
                                         const TensorLookup& lookup) const override {
    QD_ASSIGN_OR_RETURN(const GptqModule scheme, ReadGptqConfiguration(configuration, module));
    return TorchCall(absl::StrCat("unpacking ", module), [&]() -> absl::StatusOr<QuantizedWeight> {
      return UnpackModule(scheme, module, lookup);
    });
  }

  nlohmann::json Configuration(const ConfigRequest& request) const override {
    return GptqConfiguration(request);
  }

  bool Recognizes(const nlohmann::json& configuration) const override {
    const auto method = configuration.find("quant_method");
    return method != configuration.end() && *method == "gptq";
  }

  absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(
      std::shared_ptr<const Checkpoint> checkpoint) const override {
    const nlohmann::json& configuration = checkpoint->raw_config().at("quantization_config");
    QD_RETURN_IF_ERROR(ReadGptqConfiguration(configuration, "").status(), checkpoint->folder(),
                       "/config.json");
    return std::make_unique<GptqWeights>(checkpoint, configuration);
  }
};

}  // namespace

const Format* GptqFormat() {
  static const GptqFormatImpl format;
  return &format;
}

}  // namespace quantd::engine
