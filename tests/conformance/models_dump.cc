// Runs a model as a request says and writes what came out, for the Python oracle beside it to
// compare.
//
//   models_dump MODEL REQUEST.json OUT.safetensors
//
// The request: {"device", "dtype", "threads", "sequences": [[ids]] of one length, "chunks":
// [positions fed at a time through the cache], "prompts": [[ids]] of any lengths, "new_tokens",
// "bench_tokens"}. The file gets "logits" [B, T, V] of one pass, "streamed" the same block by
// block, "cached" the same fed in chunks through the cache, "together" and "alone" [P, N] the
// tokens generated from all prompts at once and one at a time. Prints measurements as JSON.
#include <ATen/ops/cat.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/models/model.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/torch_call.h"
#include "workers/engine/tensor/view.h"

namespace quantd::engine {
namespace {

using Ids = std::vector<std::vector<int64_t>>;
using Named = std::vector<std::pair<std::string, at::Tensor>>;

constexpr int64_t kRequestBytesMax = 64 << 20;

at::Tensor Matrix(const Ids& rows) {
  std::vector<at::Tensor> tensors;
  for (const std::vector<int64_t>& row : rows) tensors.push_back(at::tensor(row, at::kLong));
  return at::stack(tensors);
}

double Seconds(const std::function<absl::Status()>& work, absl::Status* status) {
  const absl::Duration begin = Clock::Real().Monotonic();
  if (status->ok()) *status = work();
  return absl::ToDoubleSeconds(Clock::Real().Monotonic() - begin);
}

absl::StatusOr<at::Tensor> Streamed(const ModelConfig& config, const WeightSource& source,
                                    const DecoderOptions& options, const at::Tensor& ids) {
  QD_ASSIGN_OR_RETURN(const Decoder decoder, Decoder::Create(config, source, options));
  QD_ASSIGN_OR_RETURN(at::Tensor hidden, decoder.Embed(ids));
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    QD_ASSIGN_OR_RETURN(const Block block, decoder.LoadBlock(layer, source));
    QD_ASSIGN_OR_RETURN(hidden, decoder.Forward(block, hidden));
  }
  std::vector<at::Tensor> parts;
  QD_RETURN_IF_ERROR(decoder.LogitsChunked(hidden, 7, [&](int64_t, const at::Tensor& logits) {
    parts.push_back(logits);
    return absl::OkStatus();
  }));
  return at::cat(parts, 0).view({ids.size(0), ids.size(1), config.vocab_size});
}

absl::StatusOr<at::Tensor> Cached(const Model& model, const at::Tensor& ids,
                                  const std::vector<int64_t>& chunks) {
  KvCache cache(model.config().layers);
  std::vector<at::Tensor> parts;
  int64_t at = 0;
  for (size_t i = 0; at < ids.size(1); ++i) {
    const int64_t count = std::min(chunks[i % chunks.size()], ids.size(1) - at);
    QD_ASSIGN_OR_RETURN(const at::Tensor hidden, model.Forward(ids.narrow(1, at, count), &cache));
    QD_ASSIGN_OR_RETURN(at::Tensor logits, model.decoder().Logits(hidden));
    parts.push_back(std::move(logits));
    at += count;
  }
  return at::cat(parts, 1);
}

absl::Status Generated(const Model& model, const nlohmann::json& request, Named* out) {
  const Ids prompts = request.at("prompts").get<Ids>();
  GenerateOptions options;
  options.new_tokens_max = request.at("new_tokens").get<int64_t>();
  QD_ASSIGN_OR_RETURN(const Ids together, model.Generate(prompts, options));
  Ids alone;
  for (const std::vector<int64_t>& prompt : prompts) {
    QD_ASSIGN_OR_RETURN(Ids one, model.Generate({prompt}, options));
    alone.push_back(std::move(one[0]));
  }
  out->emplace_back("together", Matrix(together));
  out->emplace_back("alone", Matrix(alone));
  return absl::OkStatus();
}

absl::Status Bench(const Model& model, int64_t tokens, nlohmann::json* measured) {
  absl::Status status;
  const at::Tensor ids = at::randint(model.config().vocab_size, {1, tokens}, at::kLong);
  const at::Device device = model.decoder().device();
  for (int warm = 0; warm < 2; ++warm) {  // The second round is the one that counts.
    const double prefill = Seconds(
        [&] {
          QD_RETURN_IF_ERROR(model.Forward(ids).status());
          return Synchronize(device);
        },
        &status);
    const double decode = Seconds(
        [&] {
          return model
              .Generate({{1, 2, 3}}, {.new_tokens_max = tokens, .stop_ids = {}, .on_step = {}})
              .status();
        },
        &status);
    (*measured)["prefill_tokens_per_second"] = static_cast<double>(tokens) / prefill;
    (*measured)["decode_tokens_per_second"] = static_cast<double>(tokens) / decode;
  }
  return status;
}

absl::Status WriteAll(const std::string& path, const Named& tensors) {
  std::vector<TensorInfo> infos;
  for (const auto& [name, tensor] : tensors) {
    QD_ASSIGN_OR_RETURN(TensorInfo info, DescribeTensor(name, tensor));
    infos.push_back(std::move(info));
  }
  QD_ASSIGN_OR_RETURN(const std::unique_ptr<SafetensorsWriter> writer,
                      SafetensorsWriter::Create(path, infos));
  for (const auto& [name, tensor] : tensors) {
    QD_RETURN_IF_ERROR(WriteTensor(*writer, name, tensor));
  }
  return writer->Finish();
}

absl::Status Run(const std::string& folder, const std::string& request_path,
                 const std::string& out_path) {
  QD_ASSIGN_OR_RETURN(const nlohmann::json request, ReadJsonObject(request_path, kRequestBytesMax));
  DecoderOptions options;
  QD_ASSIGN_OR_RETURN(options.device, SelectDevice(request.at("device").get<std::string>()));
  QD_ASSIGN_OR_RETURN(options.dtype, ParseComputeDtype(request.at("dtype").get<std::string>()));
  QD_RETURN_IF_ERROR(SetDeterministic(1));
  SetThreads(request.value("threads", 0));
  nlohmann::json measured;
  const int64_t resident_before = ReadHostMemory().resident_bytes;
  absl::Status status;
  std::shared_ptr<const Checkpoint> checkpoint;
  std::optional<Model> model;
  measured["load_seconds"] = Seconds(
      [&]() -> absl::Status {
        QD_ASSIGN_OR_RETURN(checkpoint, Checkpoint::Open(folder));
        QD_ASSIGN_OR_RETURN(
            model, Model::Load(checkpoint->config(), CheckpointWeights(checkpoint), options));
        return absl::OkStatus();
      },
      &status);
  QD_RETURN_IF_ERROR(status);
  measured["load_resident_bytes"] = ReadHostMemory().resident_bytes - resident_before;
  measured["model_bytes"] = model->size_bytes();

  Named out;
  if (request.contains("sequences")) {
    const at::Tensor ids = Matrix(request.at("sequences").get<Ids>());
    QD_ASSIGN_OR_RETURN(at::Tensor logits, model->Logits(ids));
    out.emplace_back("logits", logits);
    const CheckpointWeights source(checkpoint);
    QD_ASSIGN_OR_RETURN(at::Tensor streamed, Streamed(checkpoint->config(), source, options, ids));
    out.emplace_back("streamed", streamed);
    const auto chunks = request.at("chunks").get<std::vector<int64_t>>();
    QD_ASSIGN_OR_RETURN(at::Tensor cached, Cached(*model, ids, chunks));
    out.emplace_back("cached", cached);
  }
  if (request.contains("prompts")) QD_RETURN_IF_ERROR(Generated(*model, request, &out));
  if (request.contains("bench_tokens")) {
    QD_RETURN_IF_ERROR(Bench(*model, request.at("bench_tokens").get<int64_t>(), &measured));
  }
  measured["peak_resident_bytes"] = ReadHostMemory().resident_peak_bytes;
  std::printf("%s\n", measured.dump().c_str());
  return WriteAll(out_path, out);
}

}  // namespace
}  // namespace quantd::engine

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: models_dump MODEL REQUEST.json OUT.safetensors\n");
    return 2;
  }
  const absl::Status outcome = quantd::engine::TorchCall(
      "running the request", [&] { return quantd::engine::Run(argv[1], argv[2], argv[3]); });
  if (outcome.ok()) return 0;
  std::fprintf(stderr, "%s\n", outcome.ToString().c_str());
  return 1;
}
