// Specs are stored, shown and sent to workers: what looks like a credential in one is refused, and
// what it names as a secret has to be there.
#pragma once

#include <string>
#include <vector>

#include "google/protobuf/message.h"
#include "proto/errors.h"

namespace quantd {

// A violation for each string below `message` that holds a credential of a known shape
// (base/redact.h); `path` is the message's own place in the request.
void RefuseCredentials(const google::protobuf::Message& message, const std::string& path,
                       std::vector<FieldViolation>* violations);

}  // namespace quantd
