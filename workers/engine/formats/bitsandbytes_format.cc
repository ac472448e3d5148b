// bitsandbytes on disk. For a linear P with weight [N, K]:
//
//   4 bits: P.weight uint8 [N * K / 2, 1]    flattened, the even weight in the high half of a byte
//           P.weight.absmax                  float32 [blocks]; uint8 when double-quantized, and
//           then P.weight.nested_absmax float32 [ceil(blocks / 256)], P.weight.nested_quant_map
//           [256] P.weight.quant_map float32 [16] P.weight.quant_state.bitsandbytes__nf4 (or __fp4)
//           uint8: JSON, filled up with spaces
//             because its size is fixed before the numbers in it are known
//   8 bits: P.weight int8 [N, K]; P.SCB float32 [N], the rows' largest; P.weight_format uint8 0
//
// Refuses other storage types than bytes, and 8-bit layouts of old GPUs. Trusts nothing it reads.
#include "workers/engine/formats/bitsandbytes_format.h"

#include <ATen/ops/from_blob.h>

#include <cstring>
#include <map>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/formats/module_weights.h"
#include "workers/engine/formats/packed_words.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

constexpr char kStatePrefix[] = "weight.quant_state.bitsandbytes__";
constexpr const char* kTypes[] = {"nf4", "fp4"};
constexpr size_t kStateBytes = 256;       // The longest text has about 190.
constexpr int64_t kStateBytesMax = 4096;  // Of a foreign file.
constexpr int64_t kBlockSizeMax = 1 << 20;
constexpr double kThreshold = 6.0;  // What bitsandbytes assumes when a configuration is silent.

int64_t Blocks(int64_t count, int64_t block) { return (count + block - 1) / block; }

std::string StateName(absl::string_view module, absl::string_view type) {
  return absl::StrCat(module, ".", kStatePrefix, type);
}

std::string StateText(const CodebookLinear& linear) {
  std::string text =
      absl::StrCat("{\"quant_type\": \"", linear.type, "\", \"blocksize\": ", linear.block_size,
                   ", \"dtype\": \"", ComputeDtypeName(linear.compute_dtype), "\", \"shape\": [",
                   linear.outputs(), ", ", linear.inputs(), "]");
  if (linear.nested.has_value()) {
    absl::StrAppend(&text, ", \"nested_blocksize\": ", linear.nested->block_size,
                    ", \"nested_dtype\": \"float32\", \"nested_offset\": ",
                    nlohmann::json(static_cast<double>(linear.nested->offset)).dump());
  }
  text += "}";
  text.resize(kStateBytes, ' ');
  return text;
}

// What the JSON beside a 4-bit weight says.
struct State {
  int64_t block_size = 0;
  int64_t outputs = 0;
  int64_t inputs = 0;
  at::ScalarType dtype = at::kBFloat16;
  bool nested = false;
  int64_t nested_block_size = 0;
  float nested_offset = 0;
};

absl::StatusOr<int64_t> Integer(const nlohmann::json& json, const std::string& where,
                                const char* field, int64_t limit) {
  const auto found = json.find(field);
  if (found == json.end() || !found->is_number_integer() || found->get<int64_t>() < 1 ||
      found->get<int64_t>() > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": ", field, " is ", found == json.end() ? "missing" : JsonText(*found),
                     " instead of a whole number from 1 to ", limit));
  }
  return found->get<int64_t>();
}

absl::StatusOr<State> ReadState(const TensorView& view, const std::string& where,
                                absl::string_view type) {
  if (view.dtype != DType::kU8 || view.bytes.size() > kStateBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(where, " is ", DTypeName(view.dtype), " ",
                                                   ShapeText(view.shape), " instead of at most ",
                                                   kStateBytesMax, " bytes of JSON"));
  }
  const absl::string_view text(reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size());
  QD_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJsonObject(text, where));
  if (json.value("quant_type", nlohmann::json()) != nlohmann::json(std::string(type))) {
    return absl::InvalidArgumentError(absl::StrCat(
        where, ": quant_type is ", JsonText(json.value("quant_type", nlohmann::json()))));
  }
  State state;
  QD_ASSIGN_OR_RETURN(state.block_size, Integer(json, where, "blocksize", kBlockSizeMax));
  const auto shape = json.find("shape");
  constexpr int64_t kSideMax = int64_t{1} << 31;
  const auto side = [&](size_t i) {
    return (*shape)[i].is_number_integer() ? (*shape)[i].get<int64_t>() : 0;
  };
  if (shape == json.end() || !shape->is_array() || shape->size() != 2 || side(0) < 1 ||
      side(1) < 1 || side(0) > kSideMax || side(1) > kSideMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": shape is ", shape == json.end() ? "missing" : JsonText(*shape),
                     " instead of [outputs, inputs]"));
  }
  state.outputs = side(0);
  state.inputs = side(1);
  const nlohmann::json dtype = json.value("dtype", nlohmann::json());
  if (dtype.is_string()) {
    QD_ASSIGN_OR_RETURN(state.dtype, ParseComputeDtype(dtype.get<std::string>()), where);
  }
  state.nested = json.contains("nested_offset");
  if (!state.nested) return state;
  QD_ASSIGN_OR_RETURN(state.nested_block_size,
                      Integer(json, where, "nested_blocksize", kBlockSizeMax));
  if (!json["nested_offset"].is_number()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": nested_offset is ", JsonText(json["nested_offset"])));
  }
  state.nested_offset = json["nested_offset"].get<float>();
  return state;
}

// Pairs of codes are numbers of 16 bits, the first code in the low byte, so that whole runs are
// shifted at once. The first code of a pair becomes the high four bits of its byte.
at::Tensor PackNibbles(const at::Tensor& codes) {
  const at::Tensor pairs = codes.view({-1}).view(at::kShort);
  return pairs.bitwise_left_shift(4)
      .bitwise_or_(pairs.bitwise_right_shift(8))
      .bitwise_and_(0xff)
      .to(at::kByte)
      .unsqueeze(1);
}

at::Tensor UnpackNibbles(const at::Tensor& packed) {
  const at::Tensor bytes = packed.reshape({-1}).to(at::kShort);
  return bytes.bitwise_and(15)
      .bitwise_left_shift_(8)
      .bitwise_or_(bytes.bitwise_right_shift(4))
      .view(at::kByte);
}

std::vector<NamedTensor> PackCodebook(absl::string_view module, const CodebookLinear& linear) {
  const std::string prefix = absl::StrCat(module, ".weight");
  const std::string text = StateText(linear);
  const at::Tensor state = at::empty({static_cast<int64_t>(text.size())}, at::kByte);
  std::memcpy(state.mutable_data_ptr<uint8_t>(), text.data(), text.size());
  std::vector<NamedTensor> tensors = {
      {prefix, PackNibbles(linear.codes)},
      {prefix + ".absmax", linear.nested ? linear.nested->codes : linear.absmax},
      {prefix + ".quant_map", linear.codebook},
      {StateName(module, linear.type), state}};
  if (linear.nested.has_value()) {
    tensors.push_back({prefix + ".nested_absmax", linear.nested->absmax});
    tensors.push_back({prefix + ".nested_quant_map", linear.nested->codebook});
  }
  return tensors;
}

absl::StatusOr<QuantizedWeight> UnpackCodebook(absl::string_view module, absl::string_view type,
                                               const TensorView& state_view,
                                               const TensorLookup& lookup) {
  QD_ASSIGN_OR_RETURN(const State state, ReadState(state_view, StateName(module, type), type));
  const std::string prefix = absl::StrCat(module, ".weight");
  const int64_t count = state.outputs * state.inputs;
  QD_ASSIGN_OR_RETURN(const at::Tensor packed, ReadTensor(lookup, prefix, DType::kU8));
  if (count % 2 != 0 || packed.numel() != count / 2) {
    return WrongShape(prefix, packed, absl::StrCat("[", count / 2, ", 1]"));
  }
  CodebookLinear linear;
  linear.type = std::string(type);
  linear.block_size = state.block_size;
  linear.compute_dtype = state.dtype;
  linear.codes = UnpackNibbles(packed).view({state.outputs, state.inputs});
  QD_ASSIGN_OR_RETURN(const at::Tensor map,
                      ReadTensor(lookup, prefix + ".quant_map", DType::kF32, {16}));
  linear.codebook = map.clone();
  const int64_t blocks = Blocks(count, state.block_size);
  if (state.nested) {
    QuantizedScales& nested = linear.nested.emplace();
    nested.block_size = state.nested_block_size;
    nested.offset = state.nested_offset;
    QD_ASSIGN_OR_RETURN(const at::Tensor codes,
                        ReadTensor(lookup, prefix + ".absmax", DType::kU8, {blocks}));
    QD_ASSIGN_OR_RETURN(const at::Tensor absmax,
                        ReadTensor(lookup, prefix + ".nested_absmax", DType::kF32,
                                   {Blocks(blocks, state.nested_block_size)}));
    QD_ASSIGN_OR_RETURN(const at::Tensor table,
                        ReadTensor(lookup, prefix + ".nested_quant_map", DType::kF32, {256}));
    nested.codes = codes.clone();
    nested.absmax = absmax.clone();
    nested.codebook = table.clone();
  } else {
    QD_ASSIGN_OR_RETURN(const at::Tensor absmax,
                        ReadTensor(lookup, prefix + ".absmax", DType::kF32, {blocks}));
    linear.absmax = absmax.clone();
  }
  QD_RETURN_IF_ERROR(linear.Check(), module);
  return linear;
}

std::vector<NamedTensor> PackRows(absl::string_view module, const QuantizedLinear& linear) {
  const at::Tensor absmax = (linear.scales.to(at::kFloat) * 127).to(at::kHalf).to(at::kFloat);
  return {{absl::StrCat(module, ".weight"), ToSigned(linear.codes)},
          // The largest weight of a row was a float16, so the rounding gives it back exactly.
          {absl::StrCat(module, ".SCB"), absmax.reshape({-1}).contiguous()},
          {absl::StrCat(module, ".weight_format"), at::zeros({}, at::kByte)}};
}

double Threshold(const nlohmann::json& configuration) {
  const auto found = configuration.find("llm_int8_threshold");
  return found != configuration.end() && found->is_number() ? found->get<double>() : kThreshold;
}

absl::StatusOr<QuantizedWeight> UnpackRows(const nlohmann::json& configuration,
                                           absl::string_view module, const TensorLookup& lookup) {
  const std::string name = absl::StrCat(module, ".weight");
  QD_ASSIGN_OR_RETURN(const at::Tensor codes, ReadTensor(lookup, name, DType::kI8));
  if (codes.dim() != 2 || codes.numel() == 0) {
    return WrongShape(name, codes, "[outputs, inputs]");
  }
  QD_ASSIGN_OR_RETURN(const at::Tensor absmax, ReadTensor(lookup, absl::StrCat(module, ".SCB"),
                                                          DType::kF32, {codes.size(0)}));
  const std::string layout = absl::StrCat(module, ".weight_format");
  const absl::StatusOr<at::Tensor> format = ReadTensor(lookup, layout, DType::kU8);
  if (!format.ok() && !absl::IsNotFound(format.status())) return format.status();
  if (format.ok() && (format->numel() != 1 || format->item<int64_t>() != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat(layout, " is not 0: only the row-major layout can be read"));
  }
  QuantizedLinear linear = {
      .bits = 8,
      .codes = ToUnsigned(codes),
      .scales = (absmax / 127).unsqueeze(1),
      .zeros = at::full({codes.size(0), 1}, 128, at::kByte),
      .group_index = at::zeros({codes.size(1)}, at::kInt),
      .input = {.kind = InputKind::kLlmInt8, .outlier_threshold = Threshold(configuration)}};
  QD_RETURN_IF_ERROR(linear.Check(), module);
  return linear;
}

absl::StatusOr<std::vector<int64_t>> ModuleShape(const StoredModule& module) {
  for (const char* type : kTypes) {
    const auto view = module.Find(absl::StrCat(kStatePrefix, type));
    if (!view.ok()) continue;
    QD_ASSIGN_OR_RETURN(const State state, ReadState(*view, StateName(module.module, type), type));
    return std::vector<int64_t>{state.outputs, state.inputs};
  }
  return MatrixShape(module, "weight");
}

class BitsandbytesFormatImpl : public Format {
 public:
  const FormatInfo& Info() const override {
    static const auto& info =
        *new FormatInfo{.name = "bitsandbytes",
                        .summary = "NF4 or FP4 with plain or 8-bit scales, or LLM.int8 rows",
                        .loaders = {"transformers", "vllm", "bitsandbytes"}};
    return info;
  }

  absl::Status Supports(const LinearScheme& scheme) const override {
    const bool rows = scheme.encoding == Encoding::kAffine && scheme.bits == 8 &&
                      scheme.group_size == -1 && scheme.symmetric &&
                      scheme.input == InputKind::kLlmInt8;
    if (scheme.encoding != Encoding::kCodebook && !rows) {
      return absl::InvalidArgumentError(absl::StrCat(
          scheme.module, ": format bitsandbytes holds what bnb_4bit and bnb_8bit make; not ",
          SchemeToJson(scheme).dump()));
    }
    if (rows || scheme.outputs * scheme.inputs % 2 == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        scheme.module, ".weight has an odd number of elements, ", scheme.outputs, " x ",
        scheme.inputs, "; format bitsandbytes packs two in a byte; skip the module"));
  }

  std::vector<TensorInfo> Describe(const LinearScheme& scheme) const override {
    const std::string prefix = scheme.module + ".weight";
    if (scheme.encoding == Encoding::kAffine) {
      return {{prefix, DType::kI8, {scheme.outputs, scheme.inputs}},
              {scheme.module + ".SCB", DType::kF32, {scheme.outputs}},
              {scheme.module + ".weight_format", DType::kU8, {}}};
    }
    const int64_t count = scheme.outputs * scheme.inputs;
    const int64_t blocks = Blocks(count, scheme.group_size);
    std::vector<TensorInfo> tensors = {
        {prefix, DType::kU8, {count / 2, 1}},
        {prefix + ".absmax", scheme.double_quantized ? DType::kU8 : DType::kF32, {blocks}},
        {prefix + ".quant_map", DType::kF32, {16}},
        {StateName(scheme.module, scheme.type), DType::kU8, {static_cast<int64_t>(kStateBytes)}}};
    if (scheme.double_quantized) {
      tensors.push_back({prefix + ".nested_absmax", DType::kF32, {Blocks(blocks, 256)}});
      tensors.push_back({prefix + ".nested_quant_map", DType::kF32, {256}});
    }
    return tensors;
  }

  absl::StatusOr<std::vector<NamedTensor>> Pack(absl::string_view module,
                                                const QuantizedWeight& weight) const override {
    return TorchCall(absl::StrCat("packing ", module),
                     [&]() -> absl::StatusOr<std::vector<NamedTensor>> {
                       QD_RETURN_IF_ERROR(Check(weight), module);
                       QD_RETURN_IF_ERROR(Supports(SchemeOf(module, weight)));
                       if (const auto* table = std::get_if<CodebookLinear>(&weight)) {
                         return PackCodebook(module, *table);
                       }
                       return PackRows(module, std::get<QuantizedLinear>(weight));
                     });
  }

  absl::StatusOr<QuantizedWeight> Unpack(const nlohmann::json& configuration,
                                         absl::string_view module,
                                         const TensorLookup& lookup) const override {
    return TorchCall(absl::StrCat("unpacking ", module), [&]() -> absl::StatusOr<QuantizedWeight> {
      for (const char* type : kTypes) {
        const auto state = lookup(StateName(module, type));
        if (state.ok()) return UnpackCodebook(module, type, *state, lookup);
      }
      return UnpackRows(configuration, module, lookup);
    });
  }

  absl::Status CheckRequest(const ConfigRequest& request) const override {
    for (const ModuleException& exception : request.exceptions) {
      if (exception.skipped || request.scheme.input != InputKind::kLlmInt8) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("overrides for ", exception.module,
                       ": format bitsandbytes has one llm_int8_threshold for the whole model; "
                       "leave it out or skip the module"));
    }
    return absl::OkStatus();
  }

  nlohmann::json Configuration(const ConfigRequest& request) const override {
    const bool four = request.scheme.encoding == Encoding::kCodebook;
    const nlohmann::json& options = request.options;
    nlohmann::json skipped = nlohmann::json::array();
    for (const ModuleException& exception : request.exceptions) {
      if (exception.skipped) skipped.push_back(exception.module);
    }
    // Null leaves the choice to the loader, which keeps the head; a list must name it.
    if (!skipped.empty()) skipped.push_back("lm_head");
    return {{"quant_method", "bitsandbytes"},
            {"load_in_4bit", four},
            {"load_in_8bit", !four},
            {"_load_in_4bit", four},
            {"_load_in_8bit", !four},
            {"bnb_4bit_quant_type", four ? request.scheme.type : "fp4"},
            {"bnb_4bit_use_double_quant", request.scheme.double_quantized},
            {"bnb_4bit_compute_dtype", options.value("compute_dtype", "float32")},
            {"bnb_4bit_quant_storage", "uint8"},
            {"llm_int8_threshold", options.value("threshold", kThreshold)},
            {"llm_int8_skip_modules", skipped.empty() ? nlohmann::json() : skipped},
            {"llm_int8_enable_fp32_cpu_offload", false},
            {"llm_int8_has_fp16_weight", false}};
  }

  bool Recognizes(const nlohmann::json& configuration) const override {
    return configuration.value("quant_method", nlohmann::json()) == "bitsandbytes";
  }

  absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(
      std::shared_ptr<const Checkpoint> checkpoint) const override {
    return OpenModuleWeights(
        *this,
        {.markers = {absl::StrCat(kStatePrefix, "nf4"), absl::StrCat(kStatePrefix, "fp4"), "SCB"},
         .tensors = {"weight", "weight.absmax", "SCB"},
         .shape = ModuleShape,
         .input = [](const StoredModule& module) -> InputQuantization {
           if (!module.Has("SCB")) return {};
           return {.kind = InputKind::kLlmInt8,
                   .outlier_threshold = Threshold(module.configuration)};
         }},
        std::move(checkpoint));
  }
};

}  // namespace

const Format* BitsandbytesFormat() {
  static const BitsandbytesFormatImpl format;
  return &format;
}

}  // namespace quantd::engine
