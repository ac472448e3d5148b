// A user's YAML file as a message, and the credential check over what came of it.
#include "base/redact.h"
#include "proto/quantd/v1/spec.pb.h"
#include "proto/yaml.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantd;
  v1::SweepSpec sweep;
  if (YamlToMessage(fuzz::Text(data, size), "input", &sweep).ok()) {
    v1::SweepSpec again;
    fuzz::Require(YamlToMessage(MessageToYaml(sweep), "printed", &again).ok(),
                  "a printed message can be read");
  }
  const std::string redacted = RedactSecrets(fuzz::Text(data, size));
  fuzz::Require(!HoldsSecret(redacted), "nothing is left after a redaction");
  return 0;
}
