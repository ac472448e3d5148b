// What the files of the CUDA module share: the operations of its column and small helpers.
#pragma once

#include <cuda_runtime.h>

#include "kernels/table.h"

namespace quantd::kernels {

template <typename Args>
cudaStream_t Stream(const Args& args) {
  return static_cast<cudaStream_t>(args.stream);
}

// Facts of the current device, read once a device.
struct Gpu {
  int processors = 0;
  int shared_bytes_max = 0;  // That one block may ask for.
  int capability = 0;        // 90 for 9.0
};
const Gpu& CurrentGpu();

void FindParamsCuda(const FindParams& args);
void RtnRowsCuda(const RtnRows& args);
void PackBitsCuda(const PackBits& args);
void UnpackBitsCuda(const UnpackBits& args);
void GptqBlockCuda(const GptqBlock& args);  // columns <= 256
void DequantizeRowsCuda(const DequantizeRows& args);
void QuantizeCodebookCuda(const QuantizeCodebook& args);
void DequantizeCodebookCuda(const DequantizeCodebook& args);
int HqqGroupsCuda(const HqqGroups& args);
void PackW4Cuda(const PackW4& args);
void UnpackW4Cuda(const UnpackW4& args);
const char* GemmW4A16Cuda(const GemmW4A16& args);
const char* HadamardRowsCuda(const HadamardRows& args);
void QuantizeRowsCuda(const QuantizeRows& args);
const char* GemmW8A8Cuda(const GemmW8A8& args);
const char* GemmW8A8Wide(const GemmW8A8& args);  // Where TakesGemmW8A8Wide, on Hopper.
bool TakesGemmW8A8Wide(const GemmW8A8& args);
void NormRowsCuda(const NormRows& args);
void GateRowsCuda(const GateRows& args);
void RopeHeadsCuda(const RopeHeads& args);
void LogProbRowsCuda(const LogProbRows& args);
void EmbedRowsCuda(const EmbedRows& args);
const char* StepProductCuda(const StepProduct& args);
const char* StepProductW4(const StepProduct& args);  // kW4 only.
const char* StepAttentionCuda(const StepAttention& args);
const char* Gemm16Cublas(const Gemm16& args);

}  // namespace quantd::kernels
