// A tokenizer.json, and then a text through what it describes.
#include "tests/fuzz/fuzz.h"
#include "workers/engine/tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantd;
  const auto tokenizer = Tokenizer::Parse(fuzz::Text(data, size), "input");
  if (!tokenizer.ok()) return 0;
  for (const char* text : {"", "Hello, wörld!  1234\n\t<s>\xf0\x9f\x98\x80", "\xff\xfe"}) {
    const auto ids = (*tokenizer)->Encode(text);
    if (ids.ok()) (*tokenizer)->Decode(*ids);
  }
  return 0;
}
