// What `quantctl doctor` looks at: each check answers with findings, and a finding that is not fine
// says how to mend it. Checks do not print and do not fail; they take seconds at most.
#pragma once

#include <string>
#include <vector>

#include "client/session.h"

namespace quantd {

enum class Verdict {
  kOk,
  kNote,     // Not there, and not needed for everything.
  kWarning,  // Works, and somebody should look at it.
  kProblem,  // Does not work.
};
// "ok", "note", "warning", "problem".
const char* VerdictWord(Verdict verdict);

struct Finding {
  std::string check;  // "address", "disk", "gpu", ...
  Verdict verdict = Verdict::kOk;
  std::string text;
  std::string remedy = "";  // Empty when there is nothing to do.
};

// Address, encryption, health, access, version, and the workers.
std::vector<Finding> CheckScheduler(Session& session);
// Whether the worker that serves metrics at `address` ("host:port") hears from its scheduler.
std::vector<Finding> CheckWorker(const std::string& address);
// This machine: disk, memory, GPU and driver, quant-engine.
std::vector<Finding> CheckMachine(const Session& session);
// The Hugging Face Hub, with the token that downloads would use.
std::vector<Finding> CheckHub(const Session& session);

}  // namespace quantd
