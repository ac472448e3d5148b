// See packed_product.h.
#include "workers/engine/formats/packed_product.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/formats/packed_words.h"
#include "workers/engine/methods/tensor_spans.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/kernels.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

using kernels::W4Kind;
using kernels::W4Shape;

// input [..., K] as [M, K], and an output [M, N] for it.
struct Operands {
  Operands(const at::Tensor& input, int64_t outputs)
      : sizes(input.sizes().vec()),
        rows(input.reshape({-1, input.size(-1)}).contiguous()),
        output(at::empty({rows.size(0), outputs}, input.options())) {
    sizes.back() = outputs;
  }
  at::Tensor Output() const { return output.view(sizes); }

  std::vector<int64_t> sizes;
  at::Tensor rows;
  at::Tensor output;
};

class W4Product : public PackedWeight {
 public:
  // `order` int64 [K]: the columns are packed in this order; undefined: in their own.
  W4Product(W4Shape shape, at::Tensor packed, at::Tensor order)
      : shape_(shape), packed_(std::move(packed)), order_(std::move(order)) {}

  at::Tensor Multiply(const LinearInput& input, const at::Tensor& bias) const override {
    const at::Tensor& values = input.values();
    const at::Tensor ordered = order_.defined() ? values.index_select(-1, order_) : values;
    const Operands operands(ordered, shape_.rows);
    const char* error = KernelsOn(packed_.device())
                            .gemm_w4a16({.shape = shape_,
                                         .m = operands.rows.size(0),
                                         .bfloat16 = input.scalar_type() == at::kBFloat16,
                                         .input = SixteenBits(operands.rows),
                                         .packed = packed_.const_data_ptr(),
                                         .bias = SixteenBits(bias),
                                         .output = MutableSixteenBits(operands.output),
                                         .weight_is_settled = true,
                                         .stream = StreamOn(packed_.device())});
    TORCH_CHECK(error == nullptr, error);
    return operands.Output();
  }

  std::optional<kernels::StepWeight> ForStep() const override {
    if (order_.defined()) return std::nullopt;
    kernels::StepWeight weight;
    weight.kind = kernels::StepKind::kW4;
    weight.rows = shape_.rows;
    weight.data = packed_.const_data_ptr();
    weight.shape = shape_;
    return weight;
  }

  int64_t size_bytes() const override { return static_cast<int64_t>(packed_.nbytes()); }
  absl::string_view kernel() const override { return IsTable(shape_.kind) ? "nf4" : "w4a16"; }

 private:
  const W4Shape shape_;
  const at::Tensor packed_;
  const at::Tensor order_;
};

class W8Product : public PackedWeight {
 public:
  W8Product(at::Tensor codes, at::Tensor scales, InputQuantization input)
      : codes_(std::move(codes)), scales_(std::move(scales)), input_(input) {}

  at::Tensor Multiply(const LinearInput& input, const at::Tensor& bias) const override {
    return MultiplyAdd(input, bias, {});
  }

  at::Tensor MultiplyAdd(const LinearInput& input, const at::Tensor& bias,
                         const at::Tensor& residual) const override {
    const Int8Input& int8 = input.Int8(input_);
    std::vector<int64_t> sizes = int8.codes.sizes().vec();
    sizes.back() = codes_.size(0);
    const at::Tensor added = residual.defined() ? residual.contiguous() : residual;
    const at::Tensor output = at::empty(sizes, codes_.options().dtype(input.scalar_type()));
    const char* error = KernelsOn(codes_.device())
                            .gemm_w8a8({.m = int8.scales.numel(),
                                        .rows = codes_.size(0),
                                        .columns = codes_.size(1),
                                        .input = int8.codes.const_data_ptr<int8_t>(),
                                        .input_scales = int8.scales.const_data_ptr<float>(),
                                        .weight = codes_.const_data_ptr<int8_t>(),
                                        .weight_scales = scales_.const_data_ptr<float>(),
                                        .bias = SixteenBits(bias),
                                        .residual = SixteenBits(added),
                                        .bfloat16 = input.scalar_type() == at::kBFloat16,
                                        .output = MutableSixteenBits(output),
                                        .weight_is_settled = true,
                                        .stream = StreamOn(codes_.device())});
    TORCH_CHECK(error == nullptr, error);
    return output;
  }

  std::optional<kernels::StepWeight> ForStep() const override {
    kernels::StepWeight weight;
    weight.kind = kernels::StepKind::kInt8;
    weight.rows = codes_.size(0);
    weight.data = codes_.const_data_ptr();
    weight.scales = scales_.const_data_ptr<float>();
    if (input_.kind == InputKind::kInt8PerTensor) weight.input_scale = input_.scale;
    return weight;
  }

  int64_t size_bytes() const override {
    return static_cast<int64_t>(codes_.nbytes() + scales_.nbytes());
  }
  absl::string_view kernel() const override { return "w8a8"; }

 private:
  const at::Tensor codes_;   // int8 [N, K]
  const at::Tensor scales_;  // float32 [N]
  const InputQuantization input_;
};

// On the CPU in float32.
class W4RowsProduct : public PackedWeight {
 public:
  // codes uint8 [N, K / 2] as kernels::PackW4Rows leaves them; scales float32 [N, G]; zeros uint8
  // likewise or undefined; `order` as in W4Product.
  W4RowsProduct(at::Tensor codes, at::Tensor scales, at::Tensor zeros, at::Tensor order)
      : codes_(std::move(codes)),
        scales_(std::move(scales)),
        zeros_(std::move(zeros)),
        order_(std::move(order)) {}

  at::Tensor Multiply(const LinearInput& input, const at::Tensor& bias) const override {
    const at::Tensor& values = input.values();
    const at::Tensor ordered = order_.defined() ? values.index_select(-1, order_) : values;
    const Operands operands(ordered, codes_.size(0));
    const int64_t m = operands.rows.size(0);
    if (m > kFewRows) return ByPanels(operands, bias);
    KernelsOn(at::kCPU).gemm_w4a32({.m = m,
                                    .weight = Rows(0, codes_.size(0)),
                                    .input = operands.rows.const_data_ptr<float>(),
                                    .bias = bias.defined() ? bias.const_data_ptr<float>() : nullptr,
                                    .output = operands.output.mutable_data_ptr<float>()});
    return operands.Output();
  }

  int64_t size_bytes() const override {
    const size_t zeros = zeros_.defined() ? zeros_.nbytes() : 0;
    return static_cast<int64_t>(codes_.nbytes() + scales_.nbytes() + zeros);
  }
  absl::string_view kernel() const override { return "w4a32"; }

 private:
  // Beyond these the matrix library is faster, with weights unpacked for it some rows at a time.
  static constexpr int64_t kFewRows = 15;
  static constexpr int64_t kPanelBytes = int64_t{1} << 20;

  kernels::W4Rows Rows(int64_t first, int64_t count) const {
    const int64_t columns = 2 * codes_.size(1), groups = scales_.size(1);
    return {
        .rows = count,
        .columns = columns,
        .group_columns = columns / groups,
        .codes = codes_.const_data_ptr<uint8_t>() + first * codes_.size(1),
        .scales = scales_.const_data_ptr<float>() + first * groups,
        .zeros = zeros_.defined() ? zeros_.const_data_ptr<uint8_t>() + first * groups : nullptr};
  }

  at::Tensor ByPanels(const Operands& operands, const at::Tensor& bias) const {
    const int64_t rows = codes_.size(0), columns = 2 * codes_.size(1);
    const int64_t step = std::max<int64_t>(1, kPanelBytes / (columns * 4));
    const at::Tensor panel = at::empty({std::min(step, rows), columns}, scales_.options());
    for (int64_t first = 0; first < rows; first += step) {
      const int64_t count = std::min(step, rows - first);
      KernelsOn(at::kCPU).unpack_w4a32(
          {.packed = Rows(first, count), .weight = panel.mutable_data_ptr<float>()});
      const at::Tensor product = at::matmul(operands.rows, panel.narrow(0, 0, count).t());
      operands.output.narrow(1, first, count).copy_(product);
    }
    if (bias.defined()) operands.output.add_(bias);
    return operands.Output();
  }

  const at::Tensor codes_, scales_, zeros_, order_;
};

bool GroupsFit(int64_t columns, int64_t group) {
  return columns % 8 == 0 && (group == 32 || group == 64 || group % 128 == 0 || group == columns);
}

// `values` in binary16 where that changes none of them; undefined otherwise.
at::Tensor ExactHalf(const at::Tensor& values) {
  const at::Tensor half = values.to(at::kHalf);
  return half.to(at::kFloat).equal(values.to(at::kFloat)) ? half.contiguous() : at::Tensor();
}

// What a layer is packed from, on the CPU.
struct W4Parts {
  W4Shape shape;
  at::Tensor codes;         // uint8 [N, K], in the order of packing.
  at::Tensor scales;        // float16 [N, G]
  at::Tensor zeros;         // float16 [N, G] or undefined.
  at::Tensor table_scales;  // float32 [N, G], for tables in place of scales.
  at::Tensor order;         // int64 [K] or undefined.
};

std::optional<W4Parts> PartsOf(const QuantizedLinear& linear) {
  if (linear.bits != 4 || linear.axis != 1 || linear.input.kind != InputKind::kFloat) return {};
  const int64_t columns = linear.inputs(), groups = linear.groups();
  if (groups == 0 || columns % groups != 0) return {};
  const int64_t group = columns / groups;
  if (!GroupsFit(columns, group)) return {};
  W4Parts parts = {.shape = {.rows = linear.outputs(), .columns = columns, .group_columns = group}};
  parts.codes = linear.codes;
  if (!linear.ordered_groups()) {
    parts.order = at::argsort(linear.group_index, /*stable=*/true, 0, /*descending=*/false);
    const at::Tensor sorted = linear.group_index.index_select(0, parts.order);
    if (!sorted.equal(OrderedGroups(columns, group))) return {};  // Groups of several sizes.
    parts.codes = linear.codes.index_select(1, parts.order).contiguous();
  }
  parts.scales = ExactHalf(linear.scales);
  if (!parts.scales.defined()) return {};
  if (linear.integer_zeros() && (linear.zeros == 8).all().item<bool>()) return parts;
  parts.shape.kind = W4Kind::kZeroPoint;
  parts.zeros = ExactHalf(linear.zeros);
  if (!parts.zeros.defined()) return {};
  return parts;
}

std::optional<W4Parts> PartsOf(const CodebookLinear& linear) {
  const W4Kind kind = linear.type == "nf4" ? W4Kind::kNf4 : W4Kind::kFp4;
  const at::Tensor table =
      at::from_blob(const_cast<float*>(kernels::W4Table(kind)), {16}, at::kFloat);
  if ((linear.type != "nf4" && linear.type != "fp4") ||
      !at::allclose(linear.codebook, table, /*rtol=*/1e-6, /*atol=*/1e-7)) {
    return {};
  }
  const int64_t rows = linear.outputs(), columns = linear.inputs();
  at::Tensor scales = linear.Scales();
  int64_t group = linear.block_size;
  if (columns % group == 0) {
    scales = scales.view({rows, columns / group});
  } else if (group % columns == 0) {
    // Rows share a block.
    scales = scales.repeat_interleave(group / columns).narrow(0, 0, rows).unsqueeze(1);
    group = columns;
  } else {
    return {};
  }
  if (!GroupsFit(columns, group)) return {};
  W4Parts parts = {
      .shape = {.rows = rows, .columns = columns, .group_columns = group, .kind = kind}};
  parts.codes = linear.codes;
  parts.table_scales = scales.contiguous();
  return parts;
}

absl::StatusOr<std::shared_ptr<const PackedWeight>> Pack(const W4Parts& parts, at::Device device) {
  const auto there = [&](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.to(device) : tensor;
  };
  const at::Tensor codes = there(parts.codes), scales = there(parts.scales);
  const at::Tensor zeros = there(parts.zeros), table_scales = there(parts.table_scales);
  const at::Tensor packed =
      at::empty({kernels::W4Bytes(parts.shape)}, codes.options().dtype(at::kByte));
  KernelsOn(device).pack_w4(
      {.shape = parts.shape,
       .codes = codes.const_data_ptr<uint8_t>(),
       .scales = SixteenBits(scales),
       .zeros = SixteenBits(zeros),
       .table_scales = table_scales.defined() ? table_scales.const_data_ptr<float>() : nullptr,
       .packed = packed.mutable_data_ptr(),
       .stream = StreamOn(device)});
  const std::string error = kernels::LoadCudaModule(nullptr)->device.take_error(StreamOn(device));
  if (!error.empty()) return absl::InternalError(absl::StrCat("packing 4-bit weights: ", error));
  return std::make_shared<W4Product>(parts.shape, packed, there(parts.order));
}

// Null where the CPU's kernel does not take it.
std::shared_ptr<const PackedWeight> PackForCpu(const QuantizedLinear& linear) {
  if (!linear.integer_zeros()) return nullptr;
  const std::optional<W4Parts> parts = PartsOf(linear);
  if (!parts.has_value()) return nullptr;
  const int64_t rows = parts->shape.rows, columns = parts->shape.columns;
  if (columns % 64 != 0 || parts->shape.group_columns % 32 != 0) return nullptr;
  const at::Tensor codes = parts->codes.contiguous();
  const at::Tensor packed = at::empty({rows, columns / 2}, codes.options());
  kernels::PackW4Rows(codes.const_data_ptr<uint8_t>(), rows * columns,
                      packed.mutable_data_ptr<uint8_t>());
  const bool symmetric = parts->shape.kind == W4Kind::kSymmetric;
  return std::make_shared<W4RowsProduct>(packed, parts->scales.to(at::kFloat),
                                         symmetric ? at::Tensor() : linear.zeros.contiguous(),
                                         parts->order);
}

// 8-bit rows whose inputs are rounded to 8 bits.
bool IsW8A8(const QuantizedLinear& linear) {
  const InputKind input = linear.input.kind;
  return linear.bits == 8 && linear.axis == 1 && linear.groups() == 1 && linear.integer_zeros() &&
         (input == InputKind::kInt8PerToken || input == InputKind::kInt8PerTensor) &&
         linear.inputs() % 16 == 0 && linear.inputs() <= 1 << 17 &&
         (linear.zeros == 128).all().item<bool>();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const PackedWeight>> PackForProducts(const QuantizedWeight& weight,
                                                                    at::Device device,
                                                                    at::ScalarType dtype) {
  using Result = absl::StatusOr<std::shared_ptr<const PackedWeight>>;
  if (device.is_cpu() && dtype == at::kFloat) {
    const auto* affine = std::get_if<QuantizedLinear>(&weight);
    if (affine == nullptr) return nullptr;
    return TorchCall("packing a layer", [&]() -> Result { return PackForCpu(*affine); });
  }
  if (!device.is_cuda() || KernelDevice(device).is_cpu() || dtype == at::kFloat) return nullptr;
  return TorchCall("packing a layer for the GPU's kernels", [&]() -> Result {
    std::optional<W4Parts> parts;
    if (const auto* affine = std::get_if<QuantizedLinear>(&weight)) {
      if (IsW8A8(*affine)) {
        const at::Tensor codes = ToSigned(affine->codes.to(device));
        const at::Tensor scales = affine->scales.to(device, at::kFloat).reshape({-1}).contiguous();
        return std::make_shared<W8Product>(codes, scales, affine->input);
      }
      parts = PartsOf(*affine);
    } else if (const auto* table = std::get_if<CodebookLinear>(&weight)) {
      parts = PartsOf(*table);
    }
    if (!parts.has_value()) return nullptr;
    return Pack(*parts, device);
  });
}

}  // namespace quantd::engine
