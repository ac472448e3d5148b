// The blocking form of a write, for every store.
#include "server/store/job_store.h"

#include <utility>

#include "absl/synchronization/notification.h"

namespace quantd {

absl::Status JobStore::Run(WriteFn write) {
  absl::Notification done;
  absl::Status result;
  Submit(std::move(write), [&](absl::Status status) {
    result = std::move(status);
    done.Notify();
  });
  done.WaitForNotification();
  return result;
}

}  // namespace quantd
