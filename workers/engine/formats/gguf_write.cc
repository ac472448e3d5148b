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
#include "workers/engine/models/architecture.h"

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
    {GgufType::kF32, 0},   {GgufType::kF16, 1},  {GgufType::kQ4_0, 2}, {GgufType::kQ4_1, 3},
    {GgufType::kQ8_0, 7},  {GgufType::kQ5_0, 8}, {GgufType::kQ5_1, 9}, {GgufType::kQ2K, 10},
    {GgufType::kQ3K, 12},  {GgufType::kQ4K, 15}, {GgufType::kQ5K, 17}, {GgufType::kQ6K, 18},
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
  std::string target;                // Name in the file.
  GgufType stored = GgufType::kF32;  // What the source's bytes are,
  GgufType type = GgufType::kF32;    // and what they become.
  std::vector<int64_t> shape;        // As it is computed with.
  bool paired_rows = false;
  bool plus_one = false;
  bool transposed = false;  // The source's bytes lie the other way round.
  // Quantized here, from the original's own numbers: the source may show them rounded already.
  bool from_original = false;
  int64_t expert = -1;
};

// Rows of one type as rows of another.
std::vector<uint8_t> Convert(absl::Span<const uint8_t> bytes, const Planned& tensor, int64_t rows,
                             int64_t columns) {
  const kernels::Backend& backend = *kernels::Active().backend;
  std::vector<float> numbers(static_cast<size_t>(rows * columns));
  backend.gguf_dequantize({.type = tensor.stored,
                           .blocks = bytes.data(),
                           .row_bytes = static_cast<int64_t>(bytes.size()) / rows,
                           .rows = rows,
                           .columns = columns,
                           .weight = numbers.data(),
                           .weight_stride = columns});
  if (tensor.plus_one) {
    for (float& number : numbers) number += 1;
  }
  const kernels::GgufBlock& block = *kernels::FindGgufBlock(tensor.type);
  const int64_t row_bytes = columns / block.weights * block.bytes;
  std::vector<uint8_t> converted(static_cast<size_t>(rows * row_bytes));
  backend.gguf_quantize({.type = tensor.type,
                         .weight = numbers.data(),
                         .weight_stride = columns,
                         .rows = rows,
                         .columns = columns,
                         .importance = nullptr,
                         .blocks = converted.data(),
                         .row_bytes = row_bytes});
  return converted;
}

// [columns, rows] numbers of `size` bytes as [rows, columns].
std::vector<uint8_t> Transpose(absl::Span<const uint8_t> bytes, int64_t rows, int64_t columns) {
  const int64_t size = static_cast<int64_t>(bytes.size()) / (rows * columns);
  std::vector<uint8_t> turned(bytes.size());
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      std::copy_n(bytes.data() + (column * rows + row) * size, size,
                  turned.data() + (row * columns + column) * size);
    }
  }
  return turned;
}

absl::Status WriteTensor(const Planned& tensor, int64_t head_dim, absl::Span<const uint8_t> bytes,
                         GgufWriter& writer) {
  const bool vector = tensor.shape.size() == 1;
  const int64_t rows = vector ? 1 : tensor.shape[0];
  const int64_t columns = tensor.shape.back();
  std::vector<uint8_t> turned;
  if (tensor.transposed) {
    turned = Transpose(bytes, rows, columns);
    bytes = turned;
  }
  const int64_t row_bytes = static_cast<int64_t>(bytes.size()) / rows;
  // Rows of a head change places, so that such a tensor goes as a whole; a vector's are its
  // numbers.
  const int64_t slice =
      tensor.paired_rows ? rows : std::max<int64_t>(1, kSliceBytes / (4 * columns));
  for (int64_t begin = 0; begin < rows; begin += slice) {
    const int64_t count = std::min(slice, rows - begin);
    absl::Span<const uint8_t> part = bytes.subspan(static_cast<size_t>(begin * row_bytes),
                                                   static_cast<size_t>(count * row_bytes));
    std::vector<uint8_t> ready;
    if (tensor.stored != tensor.type || tensor.plus_one) {
      ready = Convert(part, tensor, count, columns);
      part = ready;
    }
    if (tensor.paired_rows) {
      ready = PairRows(part, vector ? columns : rows, head_dim);
      part = ready;
    }
    QD_RETURN_IF_ERROR(writer.Append(tensor.target, part));
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

absl::StatusOr<Planned> PlanTensor(const TensorInfo& info, const GgufArchitecture& row,
                                   const Architecture& architecture,
                                   const std::map<std::string, std::string>& outer) {
  Planned planned = {.source = info, .target = {}, .shape = info.shape};
  const size_t dot = info.name.rfind('.');
  const std::string module = info.name.substr(0, dot);
  absl::string_view kind = absl::string_view(info.name).substr(dot + 1);
  const bool blocks = absl::ConsumePrefix(&kind, kGgufBlocksKind);
  QD_ASSIGN_OR_RETURN(const GgufPlace place,
                      PlaceInGguf(row, module, blocks ? absl::string_view("weight") : kind));
  planned.target = place.name;
  planned.expert = place.expert;
  planned.paired_rows = place.paired_rows;
  planned.plus_one = place.plus_one;
  if (blocks) {
    const BlockEncoding* encoding = FindGgufEncoding(kind);
    if (encoding == nullptr || info.shape.size() != 2) {
      return absl::InternalError(absl::StrCat(info.name, " is no matrix in blocks"));
    }
    planned.stored = planned.type = GgufTypeOf(*encoding);
    planned.shape[1] = info.shape[1] / encoding->block_bytes * encoding->block_weights;
    return planned;
  }
  planned.stored = PlainType(info.dtype);
  planned.transposed = IsStoredTransposed(architecture, info);
  // Readers want vectors, routers and positions in float32; other matrices stay as they are.
  const bool wide = info.shape.size() == 1 || absl::StrContains(place.name, "ffn_gate_inp") ||
                    absl::StartsWith(place.name, "position_embd");
  planned.type = wide ? GgufType::kF32 : planned.stored;
  const auto asked = outer.find(planned.target);
  if (asked != outer.end() && !asked->second.empty()) {
    planned.type = GgufTypeOf(*FindGgufEncoding(GgufTypeFor(asked->second, info.shape.back())));
    planned.from_original = true;
  }
  return planned;
}

// The file's tensors: those of experts are one.
absl::StatusOr<std::vector<GgufTensorInfo>> TensorsOf(const std::vector<Planned>& planned,
                                                      int64_t experts) {
  std::vector<GgufTensorInfo> tensors;
  std::map<std::string, size_t> stacks;
  for (const Planned& tensor : planned) {
    GgufTensorInfo info = {tensor.target, tensor.type, tensor.shape};
    if (tensor.expert < 0) {
      tensors.push_back(std::move(info));
      continue;
    }
    const auto [found, is_new] = stacks.emplace(tensor.target, tensors.size());
    if (is_new) {
      info.shape.insert(info.shape.begin(), experts);
      tensors.push_back(std::move(info));
    } else if (tensors[found->second].type != tensor.type) {
      return absl::InvalidArgumentError(absl::StrCat(
          "format gguf: the experts' ", tensor.target,
          " have different types, but are one tensor; give all of them the same options"));
    }
  }
  return tensors;
}

int64_t FileTypeOf(const std::vector<Planned>& tensors) {
  std::map<GgufType, int64_t> weights;
  for (const Planned& tensor : tensors) {
    const bool in_block = absl::StartsWith(tensor.target, "blk.");
    if (in_block) weights[tensor.type] += ElementCount(tensor.shape).value_or(0);
  }
  const auto most =
      std::max_element(weights.begin(), weights.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  for (const FileType& type : kFileTypes) {
    if (most != weights.end() && type.type == most->first) return type.number;
  }
  return 1;
}

absl::Status WriteModelfile(const std::string& folder, const std::string& caveat) {
  std::string text =
      absl::StrCat("# ollama create NAME -f Modelfile\nFROM ./", kGgufFileName, "\n");
  if (!caveat.empty()) absl::StrAppend(&text, "# Note: ", caveat, ".\n");
  return WriteFileAtomic(absl::StrCat(folder, "/Modelfile"), text);
}

// The original's own numbers of a tensor that is quantized here.
absl::Status WriteOriginal(const Checkpoint& original, Planned tensor, int64_t head_dim,
                           GgufWriter& writer) {
  QD_ASSIGN_OR_RETURN(const TensorView view, original.Find(tensor.source.name));
  if (view.shape != tensor.shape) {
    return absl::InternalError(
        absl::StrCat(tensor.source.name, " has another shape in the original"));
  }
  tensor.stored = PlainType(view.dtype);
  return WriteTensor(tensor, head_dim, view.bytes, writer);
}

}  // namespace

absl::StatusOr<WrittenModel> WriteGguf(ModelReader& model, const std::string& folder) {
  const ModelConfig& config = model.config();
  QD_ASSIGN_OR_RETURN(const GgufArchitecture* row, GgufArchitectureOf(config));
  QD_ASSIGN_OR_RETURN(const Architecture* architecture, FindArchitecture(config));
  const std::map<std::string, std::string> outer = OuterTypes(model);
  std::vector<Planned> tensors;
  for (const TensorInfo& info : model.tensors()) {
    QD_ASSIGN_OR_RETURN(Planned tensor, PlanTensor(info, *row, *architecture, outer));
    tensors.push_back(std::move(tensor));
  }
  QD_ASSIGN_OR_RETURN(std::vector<GgufTensorInfo> infos, TensorsOf(tensors, config.experts));
  const std::vector<GgufRopeFactors> factors = RopeFactorsOf(config);
  for (const GgufRopeFactors& list : factors) {
    infos.push_back({list.name, GgufType::kF32, {static_cast<int64_t>(list.factors.size())}});
  }
  QD_ASSIGN_OR_RETURN(GgufMetadata metadata, GgufMetadataOf(config));
  QD_ASSIGN_OR_RETURN(GgufTokenizer tokenizer, GgufTokenizerOf(model.original().folder(), config));
  if (!tokenizer.caveat.empty()) LogWarning(tokenizer.caveat, {{"model", folder}});
  metadata.merge(tokenizer.metadata);
  metadata.emplace("general.type", GgufValue::String("model"));
  metadata.emplace("general.file_type", GgufValue::U32(FileTypeOf(tensors)));
  metadata.emplace("general.quantized_by", GgufValue::String("quantd " QUANTD_VERSION));
  const std::string path = absl::StrCat(folder, "/", kGgufFileName);
  QD_ASSIGN_OR_RETURN(const auto writer, GgufWriter::Create(path, metadata, std::move(infos)));
  for (const Planned& tensor : tensors) {
    const auto write = [&](absl::Span<const uint8_t> bytes) {
      return tensor.from_original
                 ? WriteOriginal(model.original(), tensor, config.head_dim, *writer)
                 : WriteTensor(tensor, config.head_dim, bytes, *writer);
    };
    QD_RETURN_IF_ERROR(model.Read(tensor.source, write), "writing ", kGgufFileName);
  }
  for (const GgufRopeFactors& list : factors) {
    QD_RETURN_IF_ERROR(writer->Append(
        list.name, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(list.factors.data()),
                                       list.factors.size() * sizeof(float))));
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
