// A read in nearly all cases: marks are rare.
#include "server/garbage/keeper.h"

#include "base/status_macros.h"

namespace quantd {

absl::Status Keeper::Keep(const std::vector<std::string>& keys) {
  if (keys.empty()) return absl::OkStatus();
  bool marked = false;
  std::string removals;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(removals, txn.GetSetting(kRemovalsSetting));
    QD_ASSIGN_OR_RETURN(const auto marks, txn.GarbageMarks(keys));
    marked = !marks.empty();
    return absl::OkStatus();
  }));
  {
    absl::MutexLock lock(&mutex_);
    if (removals != removals_) artifacts_->Forget();
    removals_ = removals;
  }
  if (!marked) return absl::OkStatus();
  return store_->Run([&](Txn& txn) { return KeepReachable(txn, keys); });
}

}  // namespace quantd
