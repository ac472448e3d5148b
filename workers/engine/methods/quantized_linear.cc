// Checks and decoding of quantized layers. Affine codes in the common layout go through the
// dequantize_rows kernel; everything rarer through libtorch, with the same single rounding.
#include "workers/engine/methods/quantized_linear.h"

#include <ATen/ops/floor_divide.h>
#include <ATen/ops/isfinite.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/safetensors.h"
#include "workers/engine/methods/tensor_spans.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/kernels.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

constexpr int64_t kCodebookSize = 16;
constexpr int64_t kScaleCodebookSize = 256;

std::string TensorText(const at::Tensor& tensor) {
  if (!tensor.defined()) return "missing";
  return absl::StrCat(c10::toString(tensor.scalar_type()), " ", ShapeText(tensor.sizes().vec()));
}

absl::Status CheckTensor(absl::string_view what, const at::Tensor& tensor, at::ScalarType dtype,
                         std::vector<int64_t> shape) {
  if (tensor.defined() && tensor.scalar_type() == dtype && tensor.is_contiguous() &&
      tensor.is_cpu() && tensor.sizes().vec() == shape) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(what, " is ", TensorText(tensor),
                                                 " instead of a contiguous ", c10::toString(dtype),
                                                 " ", ShapeText(shape), " on the CPU"));
}

absl::Status CheckFloating(absl::string_view what, const at::Tensor& tensor,
                           std::vector<int64_t> shape) {
  const bool floating = tensor.defined() && (tensor.scalar_type() == at::kHalf ||
                                             tensor.scalar_type() == at::kBFloat16 ||
                                             tensor.scalar_type() == at::kFloat);
  QD_RETURN_IF_ERROR(
      CheckTensor(what, tensor, floating ? tensor.scalar_type() : at::kHalf, std::move(shape)));
  if (tensor.numel() == 0 || at::isfinite(tensor).all().item<bool>()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " hold NaN or infinity"));
}

// Whether all of `values` are in [0, limit).
absl::Status CheckBelow(absl::string_view what, const at::Tensor& values, int64_t limit) {
  if (values.numel() == 0) return absl::OkStatus();
  const int64_t low = values.min().item<int64_t>();
  const int64_t high = values.max().item<int64_t>();
  if (low >= 0 && high < limit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " holds values from ", low, " to ", high,
                                                 " where 0 to ", limit - 1, " is allowed"));
}

absl::Status CheckAffine(const QuantizedLinear& linear) {
  const int64_t n = linear.codes.size(0);
  const int64_t k = linear.codes.size(1);
  std::vector<int64_t> shape = linear.scales.sizes().vec();
  if (linear.axis == 0) {
    if (linear.group_size <= 0 || n % linear.group_size != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "group_size ", linear.group_size, " does not divide ", n, " outputs, as axis 0 demands"));
    }
    shape = {n / linear.group_size, k};
  } else {
    shape = {n, linear.scales.size(1)};
    QD_RETURN_IF_ERROR(CheckTensor("group_index", linear.group_index, at::kInt, {k}));
    QD_RETURN_IF_ERROR(CheckBelow("group_index", linear.group_index, linear.groups()));
  }
  QD_RETURN_IF_ERROR(CheckTensor("codes", linear.codes, at::kByte, {n, k}));
  QD_RETURN_IF_ERROR(CheckFloating("scales", linear.scales, shape));
  QD_RETURN_IF_ERROR(CheckBelow("codes", linear.codes, int64_t{1} << linear.bits));
  if (!linear.integer_zeros()) return CheckFloating("zeros", linear.zeros, shape);
  QD_RETURN_IF_ERROR(CheckTensor("zeros", linear.zeros, at::kByte, shape));
  return CheckBelow("zeros", linear.zeros, int64_t{1} << linear.bits);
}

int64_t Blocks(int64_t elements, int64_t block) { return (elements + block - 1) / block; }

absl::Status CheckScales(const QuantizedScales& scales, int64_t blocks) {
  if (scales.block_size <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("a scale block of ", scales.block_size));
  }
  QD_RETURN_IF_ERROR(CheckTensor("absmax codes", scales.codes, at::kByte, {blocks}));
  QD_RETURN_IF_ERROR(
      CheckTensor("absmax codebook", scales.codebook, at::kFloat, {kScaleCodebookSize}));
  return CheckFloating("nested absmax", scales.absmax, {Blocks(blocks, scales.block_size)});
}

// Every number its block's scale: [blocks] -> [elements].
at::Tensor Spread(const at::Tensor& scales, int64_t block, int64_t elements) {
  return scales.unsqueeze(1).expand({scales.size(0), block}).reshape({-1}).narrow(0, 0, elements);
}

at::Tensor Look(const at::Tensor& codebook, const at::Tensor& codes) {
  return codebook.index_select(0, codes.reshape({-1}).to(at::kLong));
}

}  // namespace

at::Tensor OrderedGroups(int64_t inputs, int64_t group) {
  return at::floor_divide(at::arange(inputs, at::kInt), group).to(at::kInt);
}

bool QuantizedLinear::ordered_groups() const {
  if (axis == 0) return true;
  return groups() > 0 && inputs() % groups() == 0 &&
         group_index.equal(OrderedGroups(inputs(), inputs() / groups()));
}

absl::Status QuantizedLinear::Check() const {
  if (bits < 2 || bits > 8) {
    return absl::InvalidArgumentError(absl::StrCat("bits is ", bits, " instead of 2 to 8"));
  }
  if (axis != 0 && axis != 1) {
    return absl::InvalidArgumentError(absl::StrCat("axis is ", axis, " instead of 0 or 1"));
  }
  if (!codes.defined() || codes.dim() != 2 || !scales.defined() || scales.dim() != 2 ||
      !zeros.defined()) {
    return absl::InvalidArgumentError("codes and scales must be matrices, and zeros be there");
  }
  return TorchCall("checking codes", [&] { return CheckAffine(*this); });
}

absl::StatusOr<at::Tensor> QuantizedLinear::Dequantize(at::ScalarType dtype) const {
  return TorchCall("decoding a quantized layer", [&] {
    if (axis == 0) {
      const int64_t repeats = group_size;
      const at::Tensor scale = scales.to(at::kFloat).repeat({repeats, 1});
      const at::Tensor zero = zeros.to(at::kFloat).repeat({repeats, 1});
      return ((codes.to(at::kFloat) - zero) * scale).to(dtype);
    }
    if (!integer_zeros() || scales.scalar_type() != at::kHalf) {
      const at::Tensor scale = scales.to(at::kFloat).index_select(1, group_index);
      const at::Tensor zero = zeros.to(at::kFloat).index_select(1, group_index);
      return ((codes.to(at::kFloat) - zero) * scale).to(dtype);
    }
    const at::Device device = codes.device();
    at::Tensor weight = at::empty({outputs(), inputs()}, codes.options().dtype(at::kFloat));
    KernelsOn(device).dequantize_rows({.codes = codes.const_data_ptr<uint8_t>(),
                                       .codes_stride = inputs(),
                                       .scales = HalfBits(scales),
                                       .zeros = zeros.const_data_ptr<uint8_t>(),
                                       .params_stride = groups(),
                                       .group_index = group_index.const_data_ptr<int32_t>(),
                                       .rows = outputs(),
                                       .columns = inputs(),
                                       .groups = groups(),
                                       .weight = weight.mutable_data_ptr<float>(),
                                       .weight_stride = inputs(),
                                       .stream = StreamOn(device)});
    return weight.to(dtype);
  });
}

QuantizedLinear QuantizedLinear::To(at::Device device) const {
  QuantizedLinear moved = *this;
  for (at::Tensor* tensor : {&moved.codes, &moved.scales, &moved.zeros, &moved.group_index}) {
    if (tensor->defined()) *tensor = tensor->to(device);
  }
  return moved;
}

absl::Status CodebookLinear::Check() const {
  if (!codes.defined() || codes.dim() != 2 || block_size <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("codes must be a matrix and the block size positive, not ", block_size));
  }
  const int64_t blocks = Blocks(codes.numel(), block_size);
  return TorchCall("checking codes", [&]() -> absl::Status {
    QD_RETURN_IF_ERROR(CheckTensor("codes", codes, at::kByte, codes.sizes().vec()));
    QD_RETURN_IF_ERROR(CheckBelow("codes", codes, kCodebookSize));
    QD_RETURN_IF_ERROR(CheckTensor("codebook", codebook, at::kFloat, {kCodebookSize}));
    if (nested.has_value()) return CheckScales(*nested, blocks);
    QD_RETURN_IF_ERROR(CheckTensor("absmax", absmax, at::kFloat, {blocks}));
    return CheckFloating("absmax", absmax, {blocks});
  });
}

at::Tensor CodebookLinear::Scales() const {
  if (!nested.has_value()) return absmax;
  return Look(nested->codebook, nested->codes) *
             Spread(nested->absmax, nested->block_size, nested->codes.numel()) +
         nested->offset;
}

absl::StatusOr<at::Tensor> CodebookLinear::Dequantize(at::ScalarType dtype) const {
  return TorchCall("decoding a quantized layer", [&] {
    const at::Device device = codes.device();
    const at::Tensor scales = Scales();
    const at::Tensor values = at::empty(codes.sizes(), codes.options().dtype(at::kFloat));
    KernelsOn(device).dequantize_codebook({.codes = codes.const_data_ptr<uint8_t>(),
                                           .count = codes.numel(),
                                           .block_size = block_size,
                                           .table = codebook.const_data_ptr<float>(),
                                           .absmax = scales.const_data_ptr<float>(),
                                           .values = values.mutable_data_ptr<float>(),
                                           .stream = StreamOn(device)});
    return values.to(dtype);
  });
}

CodebookLinear CodebookLinear::To(at::Device device) const {
  CodebookLinear moved = *this;
  std::vector<at::Tensor*> tensors = {&moved.codes, &moved.codebook, &moved.absmax};
  if (moved.nested.has_value()) {
    QuantizedScales& scales = *moved.nested;
    tensors.insert(tensors.end(), {&scales.codes, &scales.codebook, &scales.absmax});
  }
  for (at::Tensor* tensor : tensors) {
    if (tensor->defined()) *tensor = tensor->to(device);
  }
  return moved;
}

absl::Status BlockLinear::Check() const {
  if (encoding == nullptr || !bytes.defined() || bytes.dim() != 2 ||
      bytes.size(1) % encoding->block_bytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("blocks are ", TensorText(bytes), ", not rows of whole ",
                     encoding == nullptr ? "" : encoding->name, " blocks"));
  }
  return CheckTensor("blocks", bytes, at::kByte, bytes.sizes().vec());
}

absl::StatusOr<at::Tensor> BlockLinear::Dequantize(at::ScalarType dtype) const {
  return TorchCall("decoding a quantized layer", [&] {
    at::Tensor weight = at::empty({outputs(), inputs()}, at::kFloat);
    encoding->decode(bytes.const_data_ptr<uint8_t>(), bytes.numel() / encoding->block_bytes,
                     weight.mutable_data_ptr<float>());
    return weight.to(dtype);
  });
}

absl::StatusOr<at::Tensor> Dequantize(const QuantizedWeight& weight, at::ScalarType dtype,
                                      at::Device device) {
  return std::visit(
      [&](const auto& linear) -> absl::StatusOr<at::Tensor> {
        if constexpr (requires { linear.To(device); }) {
          if (!device.is_cpu()) {
            return TorchCall("moving a quantized layer",
                             [&] { return linear.To(device).Dequantize(dtype); });
          }
        }
        return linear.Dequantize(dtype);
      },
      weight);
}

absl::Status Check(const QuantizedWeight& weight) {
  return std::visit([](const auto& linear) { return linear.Check(); }, weight);
}

int64_t Outputs(const QuantizedWeight& weight) {
  return std::visit([](const auto& linear) { return linear.outputs(); }, weight);
}

int64_t Inputs(const QuantizedWeight& weight) {
  return std::visit([](const auto& linear) { return linear.inputs(); }, weight);
}

InputQuantization InputOf(const QuantizedWeight& weight) {
  const auto* affine = std::get_if<QuantizedLinear>(&weight);
  return affine == nullptr ? InputQuantization{} : affine->input;
}

LinearScheme SchemeOf(absl::string_view module, const QuantizedWeight& weight) {
  LinearScheme scheme;
  scheme.module = std::string(module);
  scheme.outputs = Outputs(weight);
  scheme.inputs = Inputs(weight);
  if (const auto* affine = std::get_if<QuantizedLinear>(&weight)) {
    scheme.bits = affine->bits;
    scheme.group_size = affine->group_size;
    scheme.symmetric = affine->symmetric;
    scheme.axis = affine->axis;
    scheme.ordered_groups = affine->ordered_groups();
    scheme.integer_zeros = affine->integer_zeros();
    scheme.input = affine->input.kind;
    // Floating zeros are stored in a type that the scheme must tell.
    if (!affine->integer_zeros()) {
      scheme.type = std::string(ComputeDtypeName(affine->zeros.scalar_type()));
    }
  } else if (const auto* table = std::get_if<CodebookLinear>(&weight)) {
    scheme.group_size = table->block_size;
    scheme.symmetric = false;
    scheme.encoding = Encoding::kCodebook;
    scheme.type = table->type;
    scheme.double_quantized = table->nested.has_value();
  } else if (const auto* blocks = std::get_if<BlockLinear>(&weight)) {
    scheme.bits = blocks->encoding->bits;
    scheme.group_size = blocks->encoding->block_weights;
    scheme.encoding = Encoding::kBlocks;
    scheme.type = std::string(blocks->encoding->name);
  }
  return scheme;
}

}  // namespace quantd::engine
