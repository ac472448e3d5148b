// A job's spec, as the engine reads it: what is accepted is printed and read back as the same.
#include "tests/fuzz/fuzz.h"
#include "workers/engine/job/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantd;
  const auto spec = engine::ParseJobSpec(fuzz::Text(data, size));
  if (!spec.ok()) return 0;
  const std::string printed =
      engine::JobSpecToJson(*spec).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const auto again = engine::ParseJobSpec(printed);
  fuzz::Require(again.ok(), "a printed spec can be read");
  fuzz::Require(engine::JobSpecToJson(*again).dump() == printed, "and says the same");
  return 0;
}
