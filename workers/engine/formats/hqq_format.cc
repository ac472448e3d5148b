// HQQ on disk, as the hqq package's HQQLinear reads its state dict from safetensors. For a linear P
// with weight [N, K] and groups of g, the weight is looked at as R x C: axis 1: [N * K / g, g];
// axis 0: [g, N * K / g].
//
//   P.W_q     8, 4, 2 bits: uint8 [R / p, C], p codes of R / p rows apart in a byte, the first
//   highest
//             3 bits: int32 [ceil(R / 10), C], ten codes in a word, the first at bit 27
//   P.scale, P.zero  floating [R, 1] or [1, C];  weight = (code - zero) * scale
//   P.nbits, group_size, axis, shape, packing, compute_dtype, ...: numbers, flags and texts as
//             tensors of their own
//
// Refuses scales that are quantized themselves and codes stored as floats. Trusts nothing it reads.
#include "workers/engine/formats/hqq_format.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
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

constexpr int64_t kTextBytesMax = 64;  // Of "packing" and the like.

struct Packing {
  int bits;
  const char* name;
  int64_t codes;  // In one element of W_q.
  DType element;
  const char* view;  // "unpack_view_dtype"
};
constexpr Packing kPackings[] = {
    {8, "8bit_u8", 1, DType::kU8, "torch.uint8"},
    {4, "4bit_u8", 2, DType::kU8, "torch.uint8"},
    {3, "3bit_32", 10, DType::kI32, "torch.int32"},
    {2, "2bit_u8", 4, DType::kU8, "torch.uint8"},
};

const Packing* FindPacking(int64_t bits) {
  for (const Packing& packing : kPackings) {
    if (packing.bits == bits) return &packing;
  }
  return nullptr;
}

// The matrix that is packed along its rows.
struct Grid {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<int64_t> params;  // Shape of scale and zero on the disk.
};

Grid GridOf(int64_t outputs, int64_t inputs, int64_t group, int axis) {
  const int64_t groups = outputs * inputs / group;
  if (axis == 1) return {groups, group, {groups, 1}};
  return {group, groups, {1, groups}};
}

int64_t GroupOf(const LinearScheme& scheme) {
  if (scheme.group_size != -1) return scheme.group_size;
  return scheme.axis == 1 ? scheme.inputs : scheme.outputs;
}

int64_t PackedRows(const Packing& packing, int64_t rows) {
  return (rows + packing.codes - 1) / packing.codes;
}

at::Tensor PackGrid(const at::Tensor& grid, const Packing& packing) {
  const int64_t step = PackedRows(packing, grid.size(0));
  const at::ScalarType type = ToScalarType(packing.element);
  const at::Tensor packed = at::zeros({step, grid.size(1)}, type);
  for (int64_t part = 0; part < packing.codes; ++part) {
    const int64_t begin = part * step;
    const int64_t count = std::min(step, grid.size(0) - begin);  // 3 bits: the last rows are short.
    if (count <= 0) break;
    const int64_t factor = int64_t{1} << (packing.bits * (packing.codes - 1 - part));
    packed.narrow(0, 0, count).add_(grid.narrow(0, begin, count).to(type) * factor);
  }
  return packed;
}

at::Tensor UnpackGrid(const at::Tensor& packed, const Packing& packing, int64_t rows) {
  std::vector<at::Tensor> parts;
  for (int64_t part = 0; part < packing.codes; ++part) {
    const int64_t factor = int64_t{1} << (packing.bits * (packing.codes - 1 - part));
    parts.push_back(packed.floor_divide(factor).bitwise_and((1 << packing.bits) - 1).to(at::kByte));
  }
  return at::cat(parts, 0).narrow(0, 0, rows);
}

at::Tensor TextTensor(absl::string_view text) {
  const at::Tensor tensor = at::empty({static_cast<int64_t>(text.size())}, at::kByte);
  std::memcpy(tensor.mutable_data_ptr<uint8_t>(), text.data(), text.size());
  return tensor;
}

std::string TorchName(at::ScalarType dtype) {
  return absl::StrCat("torch.", ComputeDtypeName(dtype));
}

// The tensors beside W_q, scale and zero.
std::vector<NamedTensor> Facts(const LinearScheme& scheme, const Packing& packing,
                               at::ScalarType compute_dtype) {
  const auto number = [](int64_t value) { return at::full({}, value, at::kInt); };
  const auto flag = [](bool value) { return at::full({}, value ? 1 : 0, at::kByte); };
  return {{"nbits", number(scheme.bits)},
          {"group_size", number(GroupOf(scheme))},
          {"axis", number(scheme.axis)},
          {"shape", at::stack({at::full({}, scheme.outputs, at::kLong),
                               at::full({}, scheme.inputs, at::kLong)})},
          {"packing", TextTensor(packing.name)},
          {"unpack_view_dtype", TextTensor(packing.view)},
          {"compute_dtype", TextTensor(TorchName(compute_dtype))},
          {"channel_wise", flag(true)},
          {"optimize", flag(true)},
          {"round_zero", flag(scheme.bits == 4)},
          {"view_as_float", flag(false)},
          {"quant_scale", flag(false)},
          {"quant_zero", flag(false)},
          {"offload_meta", flag(false)},
          {"encoded_state_dict", flag(true)},
          {"stores_quant_config", flag(true)}};
}

// Reads a module's facts; every error names the tensor.
class FactReader {
 public:
  FactReader(absl::string_view module, const TensorLookup& lookup)
      : prefix_(absl::StrCat(module, ".")), lookup_(lookup) {}

  absl::StatusOr<int64_t> Number(const char* name, int64_t low, int64_t high) const {
    QD_ASSIGN_OR_RETURN(const at::Tensor tensor,
                        ReadTensor(lookup_, prefix_ + name, DType::kI32, {}));
    const int64_t value = tensor.item<int64_t>();
    if (value >= low && value <= high) return value;
    return absl::InvalidArgumentError(
        absl::StrCat(prefix_, name, " is ", value, " instead of ", low, " to ", high));
  }

  absl::StatusOr<std::vector<int64_t>> Shape() const {
    QD_ASSIGN_OR_RETURN(const at::Tensor tensor,
                        ReadTensor(lookup_, prefix_ + "shape", DType::kI64, {2}));
    const std::vector<int64_t> shape = {tensor[0].item<int64_t>(), tensor[1].item<int64_t>()};
    constexpr int64_t kSideMax = int64_t{1} << 31;
    for (const int64_t side : shape) {
      if (side >= 1 && side <= kSideMax) continue;
      return absl::InvalidArgumentError(absl::StrCat(prefix_, "shape says ", ShapeText(shape)));
    }
    return shape;
  }

  // A flag that must not be set: the layout it stands for cannot be read.
  absl::Status Unset(const char* name) const {
    const auto tensor = ReadTensor(lookup_, prefix_ + name, DType::kU8);
    if (absl::IsNotFound(tensor.status())) return absl::OkStatus();
    QD_RETURN_IF_ERROR(tensor.status());
    if (tensor->numel() == 1 && tensor->item<int64_t>() == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(prefix_, name, " is set; such files of hqq cannot be read"));
  }

  absl::Status CheckText(const char* name, absl::string_view wanted) const {
    QD_ASSIGN_OR_RETURN(const TensorView view, lookup_(prefix_ + name));
    const absl::string_view text(reinterpret_cast<const char*>(view.bytes.data()),
                                 std::min<size_t>(view.bytes.size(), kTextBytesMax));
    if (view.dtype == DType::kU8 && text == wanted) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(prefix_, name, " is ", Quoted(text), " instead of ", wanted));
  }

 private:
  const std::string prefix_;
  const TensorLookup& lookup_;
};

absl::StatusOr<QuantizedWeight> UnpackModule(absl::string_view module, const TensorLookup& lookup) {
  const std::string prefix = absl::StrCat(module, ".");
  const FactReader facts(module, lookup);
  for (const char* flag : {"view_as_float", "quant_scale", "quant_zero"}) {
    QD_RETURN_IF_ERROR(facts.Unset(flag));
  }
  QD_ASSIGN_OR_RETURN(const int64_t bits, facts.Number("nbits", 1, 8));
  const Packing* packing = FindPacking(bits);
  if (packing == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(prefix, "nbits is ", bits, "; 2, 3, 4 and 8 can be read"));
  }
  QD_RETURN_IF_ERROR(facts.CheckText("packing", packing->name));
  QD_ASSIGN_OR_RETURN(const int64_t axis, facts.Number("axis", 0, 1));
  QD_ASSIGN_OR_RETURN(const int64_t group, facts.Number("group_size", 1, INT32_MAX));
  QD_ASSIGN_OR_RETURN(const std::vector<int64_t> shape, facts.Shape());
  const int64_t side = axis == 1 ? shape[1] : shape[0];
  if (side % group != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(prefix, "group_size ", group, " does not divide ", side, ": groups across ",
                     axis == 1 ? "rows" : "columns", " cannot be read"));
  }
  const Grid grid = GridOf(shape[0], shape[1], group, static_cast<int>(axis));
  QD_ASSIGN_OR_RETURN(const at::Tensor packed,
                      ReadTensor(lookup, prefix + "W_q", packing->element,
                                 {PackedRows(*packing, grid.rows), grid.columns}));
  QuantizedLinear linear = {.bits = static_cast<int>(bits),
                            .group_size = group,
                            .symmetric = false,
                            .axis = static_cast<int>(axis)};
  linear.codes = UnpackGrid(packed, *packing, grid.rows).contiguous().view({shape[0], shape[1]});
  const std::vector<int64_t> params = axis == 1 ? std::vector<int64_t>{shape[0], shape[1] / group}
                                                : std::vector<int64_t>{shape[0] / group, shape[1]};
  for (const char* name : {"scale", "zero"}) {
    QD_ASSIGN_OR_RETURN(const at::Tensor read, ReadFloating(lookup, prefix + name));
    if (read.sizes().vec() != grid.params) {
      return WrongShape(prefix + name, read, ShapeText(grid.params));
    }
    (std::strcmp(name, "scale") == 0 ? linear.scales : linear.zeros) = read.clone().view(params);
  }
  if (axis == 1) linear.group_index = OrderedGroups(shape[1], group);
  QD_RETURN_IF_ERROR(linear.Check(), module);
  return linear;
}

class HqqFormatImpl : public Format {
 public:
  const FormatInfo& Info() const override {
    static const auto& info = *new FormatInfo{
        .name = "hqq",
        .summary = "HQQ's state dict: 2, 3, 4 or 8 bits with floating zero points",
        .loaders = {"hqq", "transformers 4", "vllm (4 bits, groups of 64, axis 1)"}};
    return info;
  }

  absl::Status Supports(const LinearScheme& scheme) const override {
    const Packing* packing = FindPacking(scheme.bits);
    if (scheme.encoding != Encoding::kAffine || scheme.integer_zeros || packing == nullptr ||
        scheme.input != InputKind::kFloat) {
      return absl::InvalidArgumentError(
          absl::StrCat(scheme.module,
                       ": format hqq holds 2-, 3-, 4- or 8-bit codes with floating zero points and "
                       "full-precision inputs; not ",
                       SchemeToJson(scheme).dump()));
    }
    if (scheme.outputs == 0) return absl::OkStatus();  // Of a whole job.
    const int64_t rows = GridOf(scheme.outputs, scheme.inputs, GroupOf(scheme), scheme.axis).rows;
    if (packing->bits == 3 || rows % packing->codes == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        scheme.module, ".weight has ", rows, " rows of groups, which format hqq packs ",
        packing->codes, " in a byte; use 8 bits or skip the module"));
  }

  std::vector<TensorInfo> Describe(const LinearScheme& scheme) const override {
    const Packing& packing = *FindPacking(scheme.bits);
    const Grid grid = GridOf(scheme.outputs, scheme.inputs, GroupOf(scheme), scheme.axis);
    const std::string prefix = scheme.module + ".";
    const at::ScalarType compute = ParseComputeDtype(scheme.type).value_or(at::kHalf);
    const DType stored = ToDType(compute).value_or(DType::kF16);
    std::vector<TensorInfo> tensors = {
        {prefix + "W_q", packing.element, {PackedRows(packing, grid.rows), grid.columns}},
        {prefix + "scale", stored, grid.params},
        {prefix + "zero", stored, grid.params}};
    for (const NamedTensor& fact : Facts(scheme, packing, compute)) {
      tensors.push_back({prefix + fact.name, ToDType(fact.tensor.scalar_type()).value(),
                         fact.tensor.sizes().vec()});
    }
    return tensors;
  }

  absl::StatusOr<std::vector<NamedTensor>> Pack(absl::string_view module,
                                                const QuantizedWeight& weight) const override {
    return TorchCall(
        absl::StrCat("packing ", module), [&]() -> absl::StatusOr<std::vector<NamedTensor>> {
          QD_RETURN_IF_ERROR(Check(weight), module);
          const LinearScheme scheme = SchemeOf(module, weight);
          QD_RETURN_IF_ERROR(Supports(scheme));
          const auto& linear = std::get<QuantizedLinear>(weight);
          const Packing& packing = *FindPacking(linear.bits);
          const Grid grid = GridOf(scheme.outputs, scheme.inputs, GroupOf(scheme), linear.axis);
          const std::string prefix = absl::StrCat(module, ".");
          std::vector<NamedTensor> tensors = {
              {prefix + "W_q", PackGrid(linear.codes.view({grid.rows, grid.columns}), packing)},
              {prefix + "scale", linear.scales.view(grid.params)},
              {prefix + "zero", linear.zeros.to(linear.scales.scalar_type()).view(grid.params)}};
          for (NamedTensor& fact : Facts(scheme, packing, linear.scales.scalar_type())) {
            tensors.push_back({prefix + fact.name, std::move(fact.tensor)});
          }
          return tensors;
        });
  }

  absl::StatusOr<QuantizedWeight> Unpack(const nlohmann::json& configuration,
                                         absl::string_view module,
                                         const TensorLookup& lookup) const override {
    return TorchCall(absl::StrCat("unpacking ", module),
                     [&] { return UnpackModule(module, lookup); });
  }

  nlohmann::json Configuration(const ConfigRequest& request) const override {
    const auto params = [](const LinearScheme& scheme) -> nlohmann::json {
      return {{"nbits", scheme.bits},
              {"channel_wise", true},
              {"group_size",
               scheme.group_size == -1 ? nlohmann::json() : nlohmann::json(scheme.group_size)},
              {"optimize", true},
              {"round_zero", scheme.bits == 4},
              {"axis", scheme.axis},
              {"view_as_float", false}};
    };
    nlohmann::json skipped = {"lm_head"};
    // What differs is in the modules' own tensors; nothing but those is read of it.
    for (const ModuleException& exception : request.exceptions) {
      if (exception.skipped) skipped.push_back(exception.module);
    }
    return {{"quant_method", "hqq"},
            {"quant_config",
             {{"weight_quant_params", params(request.scheme)},
              {"scale_quant_params", nullptr},
              {"zero_quant_params", nullptr},
              {"offload_meta", false}}},
            {"skip_modules", skipped}};
  }

  bool Recognizes(const nlohmann::json& configuration) const override {
    return configuration.value("quant_method", nlohmann::json()) == "hqq";
  }

  absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(
      std::shared_ptr<const Checkpoint> checkpoint) const override {
    return OpenModuleWeights(
        *this,
        {.markers = {"W_q"},
         .tensors = {"W_q", "scale", "zero"},
         .shape = [](const StoredModule& module) -> absl::StatusOr<std::vector<int64_t>> {
           return TorchCall(absl::StrCat("reading ", module.module, ".shape"), [&] {
             return FactReader(module.module,
                               [&](absl::string_view name) { return module.checkpoint.Find(name); })
                 .Shape();
           });
         }},
        std::move(checkpoint));
  }
};

}  // namespace

const Format* HqqFormat() {
  static const HqqFormatImpl format;
  return &format;
}

}  // namespace quantd::engine
