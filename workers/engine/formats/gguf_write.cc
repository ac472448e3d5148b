// The order of the file is the model's; every tensor goes straight from where it lies into its
// place, converted a slice of rows at a time.
#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "kernels/table.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/checkpoint/gguf_model.h"
#include "workers/engine/formats/gguf_format.h"
#include "workers/engine/formats/gguf_rows.h"
#include "workers/engine/formats/gguf_tokenizer.h"
#include "workers/engine/methods/gguf.h"
#include "workers/engine/methods/gguf_blocks.h"

namespace quantd::engine {
namespace {

using kernels::GgufType;

constexpr int64_t kSliceBytes = int64_t{16} << 20;  // Of float32 rows being converted.

// general.file_type by the type that most weights have.
struct FileType {
  GgufType type;
  int64_t number;
};
constexpr FileType kFileTypes[] = {
    {GgufType::kF32, 0},  {GgufType::kF16, 1},  {GgufType::kQ4_0, 2}, {GgufType::kQ4_1, 3},
    {GgufType::kQ8_0, 7}, {GgufType::kQ5_0, 8}, {GgufType::kQ5_1, 9}, {GgufType::kQ2K, 10},
    {GgufType::kQ3K, 12}, {GgufType::kQ4K, 15}, {GgufType::kQ5K, 17}, {GgufType::kQ6K, 18},
    {GgufType::kBF16, 32},
};

GgufType PlainType(DType dtype) {
  return dtype == DType::kF16    ? GgufType::kF16
         : dtype == DType::kBF16 ? GgufType::kBF16
                                 : GgufType::kF32;
}

// A tensor of the model on its way into the file.
struct Planned {
  TensorInfo source;
  GgufTensorInfo target;
  GgufType stored = GgufType::kF32;  // What the source's bytes are.
  bool paired_rows = false;
  // Quantized here, from the original's own numbers: the source may show them rounded already.
  bool from_original = false;
};

// Rows of one type as rows of another.
std::vector<uint8_t> Convert(absl::Span<const uint8_t> bytes, GgufType from, GgufType to,
                             int64_t rows, int64_t columns) {
  const kernels::Backend& backend = *kernels::Active().backend;
  std::vector<float> numbers(static_cast<size_t>(rows * columns));
  backend.gguf_dequantize({.type = from,
                           .blocks = bytes.data(),
                           .row_bytes = static_cast<int64_t>(bytes.size()) / rows,
                           .rows = rows,
                           .columns = columns,
                           .weight = numbers.data(),
                           .weight_stride = columns});
  const kernels::GgufBlock& block = *kernels::FindGgufBlock(to);
  const int64_t row_bytes = columns / block.weights * block.bytes;
  std::vector<uint8_t> converted(static_cast<size_t>(rows * row_bytes));
  backend.gguf_quantize({.type = to,
                         .weight = numbers.data(),
                         .weight_stride = columns,
                         .rows = rows,
                         .columns = columns,
                         .importance = nullptr,
                         .blocks = converted.data(),
                         .row_bytes = row_bytes});
  return converted;
}

absl::Status WriteTensor(const Planned& tensor, int64_t head_dim, absl::Span<const uint8_t> bytes,
                         GgufWriter& writer) {
  const std::vector<int64_t>& shape = tensor.target.shape;
  const bool row = shape.size() == 1;
  const int64_t rows = row ? 1 : shape[0];
  if (tensor.paired_rows) {
    // A bias counts as a column.
    const int64_t outputs = shape[0];
    std::vector<uint8_t> ready(bytes.begin(), bytes.end());
    if (tensor.stored != tensor.target.type) {
      ready = Convert(bytes, tensor.stored, tensor.target.type, rows, shape.back());
    }
    return writer.Append(tensor.target.name, PairRows(ready, outputs, head_dim));
  }
  if (tensor.stored == tensor.target.type) return writer.Append(tensor.target.name, bytes);
  const int64_t columns = shape.back();
  const int64_t row_bytes = static_cast<int64_t>(bytes.size()) / rows;
  const int64_t slice = std::max<int64_t>(1, kSliceBytes / (4 * columns));
  for (int64_t begin = 0; begin < rows; begin += slice) {
    const int64_t count = std::min(slice, rows - begin);
    const auto part = bytes.subspan(static_cast<size_t>(begin * row_bytes),
                                    static_cast<size_t>(count * row_bytes));
    QD_RETURN_IF_ERROR(
        writer.Append(tensor.target.name,
                      Convert(part, tensor.stored, tensor.target.type, count, columns)));
  }
  return absl::OkStatus();
}

// The types of embedding and head by their modules, where the method asks for one.
std::map<std::string, std::string> OuterTypes(const ModelReader& model) {
  const ModelConfig& config = model.config();
  const nlohmann::json options = model.configuration().value("options", nlohmann::json::object());
  std::map<std::string, std::string> types;
  if (model.configuration().value("method", "") != "gguf") return types;
  const bool tied = config.tie_word_embeddings;
  types["token_embd.weight"] = GgufOuterType(options, /*is_head=*/false, tied);
  types["output.weight"] = GgufOuterType(options, /*is_head=*/true, tied);
  return types;
}

absl::StatusOr<std::vector<Planned>> PlanTensors(const ModelReader& model,
                                                 const GgufArchitecture& row) {
  const std::map<std::string, std::string> outer = OuterTypes(model);
  std::vector<Planned> tensors;
  for (const TensorInfo& info : model.tensors()) {
    Planned planned = {.source = info, .target = {}};
    const size_t dot = info.name.rfind('.');
    const std::string module = info.name.substr(0, dot);
    absl::string_view kind = absl::string_view(info.name).substr(dot + 1);
    planned.paired_rows = HasPairedRows(row, module);
    if (absl::ConsumePrefix(&kind, kGgufBlocksKind)) {
      const BlockEncoding* encoding = FindGgufEncoding(kind);
      if (encoding == nullptr || info.shape.size() != 2) {
        return absl::InternalError(absl::StrCat(info.name, " is no tensor in blocks"));
      }
      planned.stored = GgufTypeOf(*encoding);
      planned.target.type = planned.stored;
      planned.target.shape = {info.shape[0],
                              info.shape[1] / encoding->block_bytes * encoding->block_weights};
      QD_ASSIGN_OR_RETURN(planned.target.name, ToGgufName(row, module, "weight"));
    } else {
      QD_ASSIGN_OR_RETURN(planned.target.name, ToGgufName(row, module, kind));
      planned.stored = PlainType(info.dtype);
      planned.target.shape = info.shape;
      // Readers want vectors in float32; matrices stay as they are.
      planned.target.type = info.shape.size() == 1 ? GgufType::kF32 : planned.stored;
      const auto asked = outer.find(planned.target.name);
      if (asked != outer.end() && !asked->second.empty()) {
        const absl::string_view type = GgufTypeFor(asked->second, info.shape.back());
        planned.target.type = GgufTypeOf(*FindGgufEncoding(type));
        planned.from_original = true;
      }
    }
    tensors.push_back(std::move(planned));
  }
  return tensors;
}

int64_t FileTypeOf(const std::vector<Planned>& tensors) {
  std::map<GgufType, int64_t> weights;
  for (const Planned& tensor : tensors) {
    const bool in_block = absl::StartsWith(tensor.target.name, "blk.");
    if (in_block) weights[tensor.target.type] += ElementCount(tensor.target.shape).value_or(0);
  }
  const auto most = std::max_element(weights.begin(), weights.end(), [](const auto& a, const auto& b) {
    return a.second < b.second;
  });
  for (const FileType& type : kFileTypes) {
    if (most != weights.end() && type.type == most->first) return type.number;
  }
  return 1;
}

absl::Status WriteModelfile(const std::string& folder, const std::string& caveat) {
  std::string text = absl::StrCat("# ollama create NAME -f Modelfile\nFROM ./", kGgufFileName, "\n");
  if (!caveat.empty()) absl::StrAppend(&text, "# Note: ", caveat, ".\n");
  return WriteFileAtomic(absl::StrCat(folder, "/Modelfile"), text);
}

absl::StatusOr<absl::Span<const uint8_t>> OriginalBytes(const Checkpoint& original,
                                                        const TensorInfo& info) {
  QD_ASSIGN_OR_RETURN(const TensorView view, original.Find(info.name));
  if (view.shape != info.shape) {
    return absl::InternalError(absl::StrCat(info.name, " has another shape in the original"));
  }
  return view.bytes;
}

}  // namespace

absl::StatusOr<WrittenModel> WriteGguf(ModelReader& model, const std::string& folder) {
  const ModelConfig& config = model.config();
  QD_ASSIGN_OR_RETURN(const GgufArchitecture* row, GgufArchitectureOf(config));
  QD_ASSIGN_OR_RETURN(const std::vector<Planned> tensors, PlanTensors(model, *row));
  QD_ASSIGN_OR_RETURN(GgufMetadata metadata, GgufMetadataOf(config));
  QD_ASSIGN_OR_RETURN(GgufTokenizer tokenizer, GgufTokenizerOf(model.original().folder(), config));
  if (!tokenizer.caveat.empty()) LogWarning(tokenizer.caveat, {{"model", folder}});
  metadata.merge(tokenizer.metadata);
  metadata.emplace("general.type", GgufValue::String("model"));
  metadata.emplace("general.file_type", GgufValue::U32(FileTypeOf(tensors)));
  metadata.emplace("general.quantized_by", GgufValue::String("quantd " QUANTD_VERSION));
  std::vector<GgufTensorInfo> infos;
  for (const Planned& tensor : tensors) infos.push_back(tensor.target);
  const std::vector<float> factors = RopeFactors(config);
  if (!factors.empty()) {
    infos.push_back({kRopeFactorsTensor, GgufType::kF32, {static_cast<int64_t>(factors.size())}});
  }
  const std::string path = absl::StrCat(folder, "/", kGgufFileName);
  QD_ASSIGN_OR_RETURN(const auto writer, GgufWriter::Create(path, metadata, std::move(infos)));
  for (const Planned& tensor : tensors) {
    QD_RETURN_IF_ERROR(
        model.Read(tensor.source,
                   [&](absl::Span<const uint8_t> bytes) -> absl::Status {
                     if (!tensor.from_original) {
                       return WriteTensor(tensor, config.head_dim, bytes, *writer);
                     }
                     QD_ASSIGN_OR_RETURN(const auto original,
                                         OriginalBytes(model.original(), tensor.source));
                     return WriteTensor(tensor, config.head_dim, original, *writer);
                   }),
        "writing ", kGgufFileName);
  }
  if (!factors.empty()) {
    QD_RETURN_IF_ERROR(writer->Append(
        kRopeFactorsTensor, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(factors.data()),
                                                factors.size() * sizeof(float))));
  }
  QD_RETURN_IF_ERROR(writer->Finish(), "writing ", kGgufFileName);
  QD_RETURN_IF_ERROR(WriteModelfile(folder, tokenizer.caveat));
  WrittenModel written;
  written.files = {{kGgufFileName, "model"}, {"Modelfile", "model"}};
  QD_RETURN_IF_ERROR(CopyCompanionFiles(model.original(), {}, folder, written.files));
  QD_ASSIGN_OR_RETURN(const auto output, Checkpoint::Open(folder), "reading back what was written");
  written.tensor_bytes = output->total_bytes();
  written.digest = output->Digest();
  return written;
}

}  // namespace quantd::engine
