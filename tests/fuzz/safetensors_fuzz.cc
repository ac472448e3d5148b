// A safetensors file: header, tensors' places, and every byte that the header promises.
#include "tests/fuzz/fuzz.h"
#include "workers/engine/checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantd;
  const fuzz::InputFile file(data, size);
  const auto opened = engine::SafetensorsFile::Open(file.path());
  if (!opened.ok()) return 0;
  uint64_t sum = 0;
  for (const std::string& name : (*opened)->names()) {
    const auto* tensor = (*opened)->Find(name);
    fuzz::Require(tensor != nullptr, "a listed tensor is found");
    for (const uint8_t byte : tensor->bytes) sum += byte;
  }
  return sum == UINT64_MAX ? 1 : 0;
}
