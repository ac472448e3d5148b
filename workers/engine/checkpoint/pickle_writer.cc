// The opcodes of protocol 2 that torch.load(weights_only=True) knows, one tensor after another.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "workers/engine/checkpoint/header_json.h"
#include "workers/engine/checkpoint/pickle.h"
#include "workers/engine/checkpoint/torch_types.h"

namespace quantd::engine {
namespace {

class Writer {
 public:
  void Byte(int value) { text_.push_back(static_cast<char>(value)); }

  void Text(absl::string_view text) {
    Byte('X');
    Little(text.size(), 4);
    absl::StrAppend(&text_, text);
  }

  void Number(int64_t value) {
    if (value <= INT32_MAX) {
      Byte('J');
      Little(static_cast<uint64_t>(value), 4);
    } else {
      Byte(0x8a);
      Byte(8);
      Little(static_cast<uint64_t>(value), 8);
    }
  }

  void Global(absl::string_view module, absl::string_view name) {
    absl::StrAppend(&text_, "c", module, "\n", name, "\n");
  }

  void Numbers(absl::Span<const int64_t> values) {
    Byte('(');
    for (const int64_t value : values) Number(value);
    Byte('t');
  }

  std::string Take() { return std::move(text_); }

 private:
  void Little(uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) Byte(static_cast<int>(value >> (8 * i) & 0xff));
  }
  std::string text_;
};

std::vector<int64_t> ContiguousStrides(absl::Span<const int64_t> shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= shape[i] > 0 ? shape[i] : 1;
  }
  return strides;
}

// name, _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())
void WriteTensor(const TensorInfo& tensor, absl::string_view storage, int64_t index,
                 int64_t elements, Writer& writer) {
  writer.Text(tensor.name);
  writer.Global("torch._utils", "_rebuild_tensor_v2");
  writer.Byte('(');
  writer.Byte('(');
  writer.Text("storage");
  writer.Global("torch", storage);
  writer.Text(absl::StrCat(index));
  writer.Text("cpu");
  writer.Number(elements);
  writer.Byte('t');
  writer.Byte('Q');
  writer.Number(0);
  writer.Numbers(tensor.shape);
  writer.Numbers(ContiguousStrides(tensor.shape));
  writer.Byte(0x89);
  writer.Global("collections", "OrderedDict");
  writer.Byte(')');
  writer.Byte('R');
  writer.Byte('t');
  writer.Byte('R');
}

}  // namespace

absl::StatusOr<std::string> WriteStateDict(absl::Span<const TensorInfo> tensors) {
  Writer writer;
  writer.Byte(0x80);
  writer.Byte(2);
  writer.Byte('}');
  writer.Byte('(');
  int64_t index = 0;
  for (const TensorInfo& tensor : tensors) {
    if (absl::Status status = CheckTensorName(tensor.name); !status.ok()) return status;
    const absl::StatusOr<int64_t> elements = ElementCount(tensor.shape);
    if (!elements.ok()) return elements.status();
    absl::string_view storage;
    for (const TorchStorage& row : kTorchStorages) {
      if (row.dtype == tensor.dtype) storage = row.name;
    }
    if (storage.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " is ",
                                                     DTypeName(tensor.dtype),
                                                     ", which torch.save has no storage for"));
    }
    WriteTensor(tensor, storage, index++, *elements, writer);
  }
  writer.Byte('u');
  writer.Byte('.');
  return writer.Take();
}

}  // namespace quantd::engine
