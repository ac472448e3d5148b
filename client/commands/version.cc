// quantctl version.
#include "client/commands/commands.h"

namespace quantd {

Action DeclareVersion(CLI::App*) {
  return [](Session& session) {
    if (session.json()) {
      session.out() << "{\"version\":\"" << QUANTD_VERSION << "\"}\n";
    } else {
      session.out() << "quantctl " << QUANTD_VERSION << "\n";
    }
    return static_cast<int>(kExitOk);
  };
}

}  // namespace quantd
