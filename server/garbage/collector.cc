// A run: list, look for ways, mark, doom, remove.
#include "server/garbage/collector.h"

#include <openssl/rand.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/names.h"
#include "server/garbage/keeper.h"
#include "server/scheduler/references.h"
#include "server/scheduler/transitions.h"

namespace quantd {
namespace {

constexpr char kTurnSetting[] = "garbage turn";  // "NAME MICROSECONDS", or empty.
// A run that is silent for so long has died. It removes nothing in the second half: a request that
// was signed before then is refused by the storage after fifteen minutes.
constexpr absl::Duration kTurn = absl::Minutes(30);
constexpr absl::Duration kFirstPause = absl::Minutes(1);
constexpr int64_t kListPage = 1000;
constexpr int64_t kJobsPage = 100;
// Rows a transaction: others write between two.
constexpr size_t kMarkBatch = 200;
// Doomed at a time: for so long as they take to be removed nobody can have them.
constexpr size_t kRemoveBatch = 50;

std::string RandomName() {
  uint64_t bits = 0;
  RAND_bytes(reinterpret_cast<unsigned char*>(&bits), sizeof(bits));
  return absl::StrCat(absl::Hex(bits));
}

std::vector<std::vector<std::string>> Batches(const std::vector<std::string>& keys, size_t size) {
  std::vector<std::vector<std::string>> batches;
  for (size_t i = 0; i < keys.size(); i += size) {
    batches.emplace_back(keys.begin() + static_cast<int64_t>(i),
                         keys.begin() + static_cast<int64_t>(std::min(i + size, keys.size())));
  }
  return batches;
}

}  // namespace

// What a run has found.
struct GarbageCollector::Found {
  absl::Time now;
  absl::flat_hash_map<std::string, int64_t> listed;  // Keys of all there is, with the blobs' sizes.
  std::vector<TenantResource> artifacts;
  absl::flat_hash_set<std::string> reachable;          // Keys.
  absl::flat_hash_set<std::string> manifests_of_jobs;  // Digests: their files are reachable.

  std::vector<GarbageMark> marks;  // Before the run.

  std::vector<GarbageMark> OldMarks(const std::vector<std::string>& keys) const {
    std::vector<GarbageMark> old;
    for (const GarbageMark& mark : marks) {
      if (std::find(keys.begin(), keys.end(), mark.key) != keys.end()) old.push_back(mark);
    }
    return old;
  }
  void Reach(const std::vector<std::string>& keys) { reachable.insert(keys.begin(), keys.end()); }
};

GarbageCollector::GarbageCollector(JobStore* store, ArtifactStore* artifacts,
                                   GarbageOptions options)
    : store_(store), artifacts_(artifacts), options_(std::move(options)), name_(RandomName()) {}

GarbageCollector::~GarbageCollector() { Stop(); }

void GarbageCollector::Stop() {
  if (!Stopped()) stop_.Notify();
  if (thread_.joinable()) thread_.join();
}

void GarbageCollector::Start() {
  if (options_.grace == absl::InfiniteDuration()) return;
  thread_ = std::thread([this] {
    absl::Duration pause = std::min(kFirstPause, options_.pause);
    while (!stop_.WaitForNotificationWithTimeout(pause)) {
      pause = options_.pause;
      if (const absl::Status run = Run(); !run.ok() && !Stopped()) {
        LogWarning("looking for what no job leads to failed; nothing is lost by that",
                   {{"error", run.ToString()}});
      }
    }
  });
}

GarbageCounters GarbageCollector::Counters() const {
  absl::MutexLock lock(&mutex_);
  return counters_;
}

absl::Status GarbageCollector::InTurn(const std::function<absl::Status(Txn&)>& write) {
  if (options_.between) options_.between();
  if (Stopped()) return absl::CancelledError("the scheduler is stopping");
  const absl::Time now = Now();
  const absl::Time end = now + kTurn;
  QD_RETURN_IF_ERROR(store_->Run([&](Txn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(const std::string turn, txn.GetSetting(kTurnSetting));
    const std::vector<std::string> words = absl::StrSplit(turn, ' ');
    int64_t until = 0;
    if (words.size() == 2 && absl::SimpleAtoi(words[1], &until) && words[0] != name_ &&
        absl::FromUnixMicros(until) > now) {
      return absl::AbortedError("another scheduler collects");
    }
    QD_RETURN_IF_ERROR(
        txn.PutSetting(kTurnSetting, absl::StrCat(name_, " ", absl::ToUnixMicros(end))));
    return write(txn);
  }));
  turn_end_ = end;
  return absl::OkStatus();
}

absl::Status GarbageCollector::Run() {
  absl::MutexLock lock(&run_mutex_);
  const GarbageCounters before = Counters();
  absl::Status run = RunWhole();
  if (absl::IsAborted(run)) return absl::OkStatus();
  // Whoever has the turn next need not wait for its end.
  InTurn([](Txn& txn) { return txn.PutSetting(kTurnSetting, ""); }).IgnoreError();
  absl::MutexLock counters_lock(&mutex_);
  ++counters_.runs;
  counters_.failed_runs += !run.ok();
  if (counters_.removed_blobs + counters_.removed_artifacts >
      before.removed_blobs + before.removed_artifacts) {
    LogInfo("removed what no job led to",
            {{"blobs", counters_.removed_blobs - before.removed_blobs},
             {"artifacts", counters_.removed_artifacts - before.removed_artifacts},
             {"bytes", counters_.removed_bytes - before.removed_bytes}});
  }
  return run;
}

absl::Status GarbageCollector::RunWhole() {
  Found found;
  QD_RETURN_IF_ERROR(InTurn([&](Txn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(found.marks, txn.AllGarbageMarks());
    return absl::OkStatus();
  }));
  std::vector<std::string> doomed;  // By a run that died.
  for (const GarbageMark& mark : found.marks) {
    if (mark.doomed) doomed.push_back(mark.key);
  }
  for (const auto& batch : Batches(doomed, kRemoveBatch)) QD_RETURN_IF_ERROR(Remove(batch));
  found.now = Now();
  QD_RETURN_IF_ERROR(List(&found), "listing the artifact store");
  QD_RETURN_IF_ERROR(Walk(&found), "looking for what jobs lead to");
  QD_RETURN_IF_ERROR(WalkArtifacts(&found), "looking for what artifacts name");
  QD_RETURN_IF_ERROR(Mark(found), "marking");
  return Doom(found);
}

absl::Status GarbageCollector::List(Found* found) {
  std::string after;
  for (bool more = true; more;) {
    QD_ASSIGN_OR_RETURN(const auto blobs, artifacts_->ListBlobs(after, kListPage));
    for (const v1::Blob& blob : blobs) found->listed[BlobKey(blob.sha256())] = blob.size_bytes();
    more = !blobs.empty();
    if (more) after = blobs.back().sha256();
    if (options_.between) options_.between();
  }
  after.clear();
  for (bool more = true; more;) {
    QD_ASSIGN_OR_RETURN(const auto names, artifacts_->ListNames(after, kListPage));
    for (const std::string& text : names) {
      QD_ASSIGN_OR_RETURN(TenantResource name, ParseArtifactName(text));
      found->listed[ArtifactKey(name.tenant, name.id)] = 0;
      found->artifacts.push_back(std::move(name));
    }
    more = !names.empty();
    if (more) after = names.back();
    if (options_.between) options_.between();
  }
  return absl::OkStatus();
}

absl::Status GarbageCollector::Walk(Found* found) {
  return store_->Read([&](ReadTxn& txn) -> absl::Status {
    int64_t after = 0;
    for (bool more = true; more && !Stopped();) {
      QD_ASSIGN_OR_RETURN(const auto jobs, txn.ReadReferences(after, kJobsPage));
      for (const JobReferences& job : jobs) QD_RETURN_IF_ERROR(WalkJob(txn, job, found));
      more = !jobs.empty();
      if (more) after = jobs.back().seq;
    }
    return absl::OkStatus();
  });
}

absl::Status GarbageCollector::WalkJob(ReadTxn& txn, const JobReferences& job, Found* found) {
  found->Reach(KeysOf(job));
  if (const std::string& sha256 = job.outcome.output().sha256(); !sha256.empty()) {
    found->manifests_of_jobs.insert(sha256);
  }
  if (IsEnded(job.state) || options_.faults.forget_files) return absl::OkStatus();
  // Files are uploaded while the job runs, and named by its outcome hours later.
  EventFilter filter{.kinds = uint32_t{1} << v1::JobEvent::kArtifactFieldNumber};
  for (bool more = true; more;) {
    QD_ASSIGN_OR_RETURN(const auto events, txn.ReadEvents(job.seq, filter));
    for (const EventRow& row : events) {
      found->reachable.insert(BlobKey(row.event.artifact().file().blob().sha256()));
    }
    more = !events.empty();
    if (more) filter.after = events.back().event.sequence();
  }
  return absl::OkStatus();
}

absl::Status GarbageCollector::WalkArtifacts(Found* found) {
  for (const TenantResource& name : found->artifacts) {
    if (found->manifests_of_jobs.contains(name.id)) continue;  // Equal digest, equal files.
    if (Stopped()) return absl::CancelledError("the scheduler is stopping");
    const auto artifact = artifacts_->GetArtifact(name.tenant, name.id);
    if (absl::IsNotFound(artifact.status())) continue;
    QD_RETURN_IF_ERROR(artifact.status());
    found->Reach(BlobKeys(artifact->manifest()));
  }
  return absl::OkStatus();
}

absl::Status GarbageCollector::Mark(const Found& found) {
  std::vector<GarbageMark> marks;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(marks, txn.AllGarbageMarks());
    return absl::OkStatus();
  }));
  absl::flat_hash_set<std::string> marked;
  std::vector<std::string> spared;
  for (const GarbageMark& mark : marks) {
    marked.insert(mark.key);
    if (mark.doomed) continue;  // Of a run that failed meanwhile.
    if (!found.listed.contains(mark.key) || found.reachable.contains(mark.key)) {
      spared.push_back(mark.key);
    }
  }
  std::vector<std::string> fresh;
  int64_t count = 0;
  int64_t bytes = 0;
  for (const auto& [key, size_bytes] : found.listed) {
    if (found.reachable.contains(key)) continue;
    ++count;
    bytes += size_bytes;
    if (!marked.contains(key)) fresh.push_back(key);
  }
  for (const auto& batch : Batches(spared, kMarkBatch)) {
    QD_RETURN_IF_ERROR(InTurn([&](Txn& txn) { return txn.DeleteGarbageMarks(batch); }));
  }
  for (const auto& batch : Batches(fresh, kMarkBatch)) {
    QD_RETURN_IF_ERROR(InTurn([&](Txn& txn) -> absl::Status {
      for (const std::string& key : batch) {
        QD_RETURN_IF_ERROR(txn.PutGarbageMark({.key = key, .since = found.now}));
      }
      return absl::OkStatus();
    }));
  }
  absl::MutexLock lock(&mutex_);
  counters_.marked = count;
  counters_.marked_bytes = bytes;
  counters_.spared += static_cast<int64_t>(spared.size());
  return absl::OkStatus();
}

absl::Status GarbageCollector::Doom(const Found& found) {
  std::vector<std::string> keys;
  for (const auto& [key, size_bytes] : found.listed) {
    if (!found.reachable.contains(key)) keys.push_back(key);
  }
  std::sort(keys.begin(), keys.end());
  for (const auto& batch : Batches(keys, kRemoveBatch)) {
    std::vector<std::string> doomed;
    QD_RETURN_IF_ERROR(InTurn([&](Txn& txn) -> absl::Status {
      doomed.clear();
      // Those whose marks are still there: nothing has led to them since before the snapshot.
      QD_ASSIGN_OR_RETURN(auto marks, txn.GarbageMarks(batch));
      if (options_.faults.believe_old_marks) marks = found.OldMarks(batch);
      for (GarbageMark& mark : marks) {
        if (mark.since > found.now - options_.grace) continue;
        mark.doomed = true;
        QD_RETURN_IF_ERROR(txn.PutGarbageMark(mark));
        doomed.push_back(mark.key);
      }
      return absl::OkStatus();
    }));
    QD_RETURN_IF_ERROR(Remove(doomed));
  }
  return absl::OkStatus();
}

absl::Status GarbageCollector::Remove(const std::vector<std::string>& keys) {
  std::vector<std::string> removed;
  absl::Status status;
  for (const std::string& key : keys) {
    if (options_.between) options_.between();
    if (Stopped()) status = absl::CancelledError("the scheduler is stopping");
    if (Now() > turn_end_ - kTurn / 2) status = absl::DeadlineExceededError("the turn is over");
    if (!status.ok()) break;
    int64_t bytes = 0;
    status = RemoveOne(key, &bytes);
    if (!status.ok()) break;
    removed.push_back(key);
    absl::MutexLock lock(&mutex_);
    ++(absl::StartsWith(key, "blobs/") ? counters_.removed_blobs : counters_.removed_artifacts);
    counters_.removed_bytes += bytes;
  }
  if (!removed.empty()) {
    QD_RETURN_IF_ERROR(InTurn([&](Txn& txn) -> absl::Status {
      QD_RETURN_IF_ERROR(txn.PutSetting(
          kRemovalsSetting,
          absl::StrCat(name_, " ", absl::ToUnixMicros(Now()), " ", removed.front())));
      for (const std::string& key : removed) {
        const std::vector<std::string> words = absl::StrSplit(key, '/');
        if (words.size() == 3) {
          QD_RETURN_IF_ERROR(txn.DeleteArtifactBytes(words[1], words[2]));
        }
      }
      return txn.DeleteGarbageMarks(removed);
    }));
  }
  return status;
}

absl::Status GarbageCollector::RemoveOne(const std::string& key, int64_t* bytes) {
  const std::vector<std::string> words = absl::StrSplit(key, '/');
  if (words[0] == "artifacts" && words.size() == 3) {
    return artifacts_->RemoveArtifact(words[1], words[2]);
  }
  if (words[0] != "blobs" || words.size() != 2) return absl::OkStatus();  // Of a newer scheduler.
  if (const auto blob = artifacts_->Open(words[1]); blob.ok()) *bytes = (*blob)->size_bytes();
  return artifacts_->RemoveBlob(words[1]);
}

}  // namespace quantd
