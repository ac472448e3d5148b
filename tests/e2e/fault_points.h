// Every fault point of the sources (base/fault_point.h): what has happened when a program passes
// it. faults_test.cc holds this list and the sources together.
#pragma once

namespace quantd::e2e {

enum class FaultIn { kScheduler, kWorker, kEngine };

struct FaultPointRow {
  const char* name;
  FaultIn program;
  int passings;  // In a moment of work: the death comes at one of so many.
  const char* meaning;
};

inline constexpr FaultIn kS = FaultIn::kScheduler;
inline constexpr FaultIn kW = FaultIn::kWorker;
inline constexpr FaultIn kE = FaultIn::kEngine;

// clang-format off
inline constexpr FaultPointRow kFaultPoints[] = {
  // The store.
  {"store/open/checked",     kS,  1, "schema and integrity are as they should be"},
  {"store/open/marked",      kS,  1, "the database says that it is open"},
  {"store/group/taken",      kS, 40, "writes left the queue, no transaction has begun"},
  {"store/write/ran",        kS, 60, "one write of a group is in the transaction"},
  {"store/job/inserted",     kS, 20, "a job has a row and no specification"},
  {"store/job/updated",      kS, 60, "a job's row is new"},
  {"store/event/appended",   kS, 60, "an event is there, the row does not count it"},
  {"store/token/taken",      kS, 20, "a fencing token is used up"},
  {"store/outcome/put",      kS, 10, "an output is there, the job is not ended"},
  {"store/checkpoint/put",   kS,  3, "a checkpoint is named"},
  {"store/commit/before",    kS, 40, "all of a group is done and nothing on disk"},
  {"store/commit/after",     kS, 40, "committed, nobody was told"},
  {"store/group/told",       kS, 60, "some of a group were told"},
  {"store/log/copying",      kS,  1, "the log is about to be copied into the database"},
  {"store/log/copied",       kS,  1, "it was copied"},
  // The queue.
  {"queue/lease/granted",    kS, 20, "a lease is written, not committed"},
  {"queue/lease/reclaimed",  kS,  1, "an expired lease is taken away, not committed"},
  {"queue/lease/renewed",    kS,  1, "at start: some leases have their new term"},
  {"queue/settled",          kS, 60, "dependents and sweeps have followed"},
  {"queue/announced",        kS, 40, "watchers were told, the caller was not"},
  // Artifacts.
  {"upload/written",         kS, 10, "bytes of an upload are in the file"},
  {"upload/synced",          kS,  5, "all are on disk under another name"},
  {"upload/renamed",         kS,  5, "the name is there, not on disk"},
  {"upload/published",       kS,  5, "the blob is durable, nobody was told"},
  {"file/created",           kS,  3, "a small file's temporary one is there"},
  {"file/written",           kS,  3, "it has its bytes"},
  {"file/synced",            kS,  3, "they are on disk"},
  {"file/renamed",           kS,  3, "it has its name, which is not on disk"},
  // Services.
  {"artifact/admitted",      kS,  2, "an artifact is in the books and has no manifest"},
  {"complete/checked",       kS,  5, "an outcome's blobs are there"},
  {"complete/accepted",      kS,  5, "it is committed, its output has no name"},
  {"complete/published",     kS,  5, "it has one, the worker was not told"},
  {"reply",                  kS, 60, "a call's answer is ready"},
  {"stream/event",           kS, 20, "a watcher is about to get an event"},
  // The worker.
  {"worker/leased",          kW,    1, "a lease came"},
  {"worker/prepared",        kW,    1, "the engine's files are written"},
  {"worker/reported",        kW,    4, "a report was answered, nobody has read it"},
  {"worker/upload/sent",     kW,    8, "a piece of a file is on its way"},
  {"worker/checkpoint/uploaded", kW,2, "a checkpoint's files are in the store"},
  {"worker/checkpoint/recorded", kW,2, "the folder knows, the scheduler does not"},
  {"worker/worked",          kW,    1, "the output is uploaded, the outcome not told"},
  {"worker/delivered",       kW,    1, "the outcome was accepted, the folder is there"},
  // The engine.
  {"engine/file/synced",     kE,    3, "a file is on disk under another name"},
  {"engine/file/renamed",    kE,    3, "it has its name, which is not on disk"},
  {"engine/block/written",   kE,    2, "a block's checkpoint is there, no state says so"},
  {"engine/block/saved",     kE,    2, "the state says so, the worker was not told"},
};
// clang-format on

}  // namespace quantd::e2e
