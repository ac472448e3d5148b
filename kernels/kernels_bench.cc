// All operations of all backends on one layer of Llama-3.2-1B's shape; items are weights, so
// items/s is weights/s.
#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <vector>

#include "kernels/table.h"

namespace quantd::kernels {
namespace {

constexpr int64_t kRows = 2048;
constexpr int64_t kColumns = 2048;
constexpr int64_t kGroup = 128;
constexpr int64_t kGroups = kColumns / kGroup;

struct Layer {
  std::vector<float> weight = std::vector<float>(kRows * kColumns);
  std::vector<uint16_t> scales = std::vector<uint16_t>(kRows * kGroups);
  std::vector<uint8_t> zeros = std::vector<uint8_t>(kRows * kGroups);
  std::vector<uint8_t> codes = std::vector<uint8_t>(kRows * kColumns);
  std::vector<uint32_t> words = std::vector<uint32_t>(kRows * kColumns / 8);
  std::vector<int32_t> group_index = std::vector<int32_t>(kColumns);
  Layer() {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 0.02f);
    for (float& value : weight) value = normal(random);
    for (int64_t k = 0; k < kColumns; ++k) group_index[k] = static_cast<int32_t>(k / kGroup);
    FindParamsCpu(Params());
    RtnRowsCpu(Rtn());
  }
  FindParams Params() {
    return {weight.data(), kColumns, kRows,   kColumns,      kGroup,       4,
            true,          0,        nullptr, scales.data(), zeros.data(), kGroups};
  }
  RtnRows Rtn() {
    return {weight.data(), kColumns,     kRows,   kColumns,     kGroup,  4,
            scales.data(), zeros.data(), kGroups, codes.data(), kColumns};
  }
};

Layer& TheLayer() {
  static Layer layer;
  return layer;
}

void Count(benchmark::State& state, int64_t weights) {
  state.SetItemsProcessed(state.iterations() * weights);
}

void BM_FindParams(benchmark::State& state, const Backend* backend) {
  for (auto _ : state) backend->find_params(TheLayer().Params());
  Count(state, kRows * kColumns);
}

void BM_RtnRows(benchmark::State& state, const Backend* backend) {
  for (auto _ : state) backend->rtn_rows(TheLayer().Rtn());
  Count(state, kRows * kColumns);
}

void BM_PackAlongK(benchmark::State& state, const Backend* backend) {
  Layer& layer = TheLayer();
  for (auto _ : state) {
    backend->pack_bits(
        {kRows, kColumns, 4, layer.codes.data(), kColumns, 1, layer.words.data(), 1, kRows});
  }
  Count(state, kRows * kColumns);
}

void BM_Dequantize(benchmark::State& state, const Backend* backend) {
  Layer& layer = TheLayer();
  std::vector<float> weight(kRows * kColumns);
  for (auto _ : state) {
    backend->dequantize_rows({layer.codes.data(), kColumns, layer.scales.data(), layer.zeros.data(),
                              kGroups, layer.group_index.data(), kRows, kColumns, kGroups,
                              weight.data(), kColumns});
  }
  Count(state, kRows * kColumns);
}

void BM_GptqBlock(benchmark::State& state, const Backend* backend) {
  constexpr int64_t kBlock = 128;
  Layer layer;
  std::vector<float> inverse(kBlock * kBlock, 0.01f);
  for (int64_t i = 0; i < kBlock; ++i) inverse[i * kBlock + i] = 1;
  std::vector<int32_t> group_of_column(kBlock, 0);
  std::vector<float> errors(kRows * kBlock);
  std::vector<double> losses(kRows);
  for (auto _ : state) {
    backend->gptq_block({kRows,
                         kBlock,
                         4,
                         true,
                         0,
                         0,
                         nullptr,
                         layer.weight.data(),
                         kColumns,
                         inverse.data(),
                         kBlock,
                         group_of_column.data(),
                         layer.scales.data(),
                         layer.zeros.data(),
                         kGroups,
                         layer.codes.data(),
                         kColumns,
                         errors.data(),
                         kBlock,
                         losses.data()});
  }
  Count(state, kRows * kBlock);
}

void BM_GgufQuantize(benchmark::State& state, const Backend* backend) {
  const GgufType type = static_cast<GgufType>(state.range(0));
  const GgufBlock& block = *FindGgufBlock(type);
  state.SetLabel(std::string(block.name));
  const Layer& layer = TheLayer();
  const int64_t row_bytes = kColumns / block.weights * block.bytes;
  std::vector<uint8_t> blocks(kRows * row_bytes);
  for (auto _ : state) {
    backend->gguf_quantize(
        {type, layer.weight.data(), kColumns, kRows, kColumns, nullptr, blocks.data(), row_bytes});
  }
  Count(state, kRows * kColumns);
}

void BM_GgufDequantize(benchmark::State& state, const Backend* backend) {
  const GgufType type = static_cast<GgufType>(state.range(0));
  const GgufBlock& block = *FindGgufBlock(type);
  state.SetLabel(std::string(block.name));
  const int64_t row_bytes = kColumns / block.weights * block.bytes;
  std::vector<uint8_t> blocks(kRows * row_bytes);
  backend->gguf_quantize({type, TheLayer().weight.data(), kColumns, kRows, kColumns, nullptr,
                          blocks.data(), row_bytes});
  std::vector<float> weight(kRows * kColumns);
  for (auto _ : state) {
    backend->gguf_dequantize(
        {type, blocks.data(), row_bytes, kRows, kColumns, weight.data(), kColumns});
  }
  Count(state, kRows * kColumns);
}

void EveryGgufType(benchmark::internal::Benchmark* benchmark) {
  for (const GgufBlock& block : kGgufBlocks) benchmark->Arg(static_cast<int64_t>(block.type));
}
BENCHMARK_CAPTURE(BM_GgufQuantize, cpu, FindBackend("cpu"))
    ->Apply(EveryGgufType)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_GgufDequantize, cpu, FindBackend("cpu"))
    ->Apply(EveryGgufType)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

#define QD_BENCH(function)                                         \
  BENCHMARK_CAPTURE(function, reference, FindBackend("reference")) \
      ->UseRealTime()                                              \
      ->Unit(benchmark::kMillisecond);                             \
  BENCHMARK_CAPTURE(function, cpu, FindBackend("cpu"))->UseRealTime()->Unit(benchmark::kMillisecond)
QD_BENCH(BM_FindParams);
QD_BENCH(BM_RtnRows);
QD_BENCH(BM_PackAlongK);
QD_BENCH(BM_Dequantize);
QD_BENCH(BM_GptqBlock);

}  // namespace
}  // namespace quantd::kernels
