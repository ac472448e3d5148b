// Flags that stand for parts of a spec, shared by the commands that have them. What is not given
// leaves the spec, perhaps read from a file, as it is.
#pragma once

#include <string>
#include <vector>

#include "CLI/App.hpp"
#include "absl/status/status.h"
#include "google/protobuf/struct.pb.h"
#include "proto/quantd/v1/spec.pb.h"

namespace quantd {

// --calibration, --sequences, --sequence-length.
struct CalibrationFlags {
  std::string source;
  int sequences = 0;
  int sequence_length = 0;
};
void AddCalibrationFlags(CLI::App* app, CalibrationFlags* flags);
// `spec` is a message with a `calibration` field.
template <typename Spec>
void ApplyCalibration(const CalibrationFlags& flags, Spec* spec) {
  if (!flags.source.empty()) spec->mutable_calibration()->set_source(flags.source);
  if (flags.sequences > 0) spec->mutable_calibration()->set_sequences(flags.sequences);
  if (flags.sequence_length > 0) {
    spec->mutable_calibration()->set_sequence_length(flags.sequence_length);
  }
}

// --task NAME[=DATA], --limit N, --tasks-path PATH.
struct TaskFlags {
  std::vector<std::string> tasks;
  int limit = 0;
  std::string tasks_path;
};
void AddTaskFlags(CLI::App* app, TaskFlags* flags);
// Tasks given replace those of `tasks`; the limit applies to all. A task that a YAML file of
// --tasks-path defines becomes the engine's task "own" with that definition, and gets the file's
// data where none is named.
absl::Status ApplyTasks(const TaskFlags& flags,
                        google::protobuf::RepeatedPtrField<v1::TaskSpec>* tasks);

// --device, --dtype, --device-memory, --host-memory, --seed.
struct RuntimeFlags {
  std::string device;
  std::string dtype;
  std::string device_memory;
  std::string host_memory;
  uint64_t seed = 0;
};
void AddRuntimeFlags(CLI::App* app, RuntimeFlags* flags);
absl::Status ApplyRuntime(const RuntimeFlags& flags, v1::Runtime* runtime);
// `spec` is a message with a `runtime` field, left unset where nothing is given.
template <typename Spec>
absl::Status ApplyRuntime(const RuntimeFlags& flags, Spec* spec) {
  v1::Runtime runtime = spec->runtime();
  const absl::Status status = ApplyRuntime(flags, &runtime);
  if (status.ok() && runtime.ByteSizeLong() > 0) *spec->mutable_runtime() = runtime;
  return status;
}

// "k=v", v as it would stand in a YAML file.
absl::Status ApplyOption(const std::string& text, google::protobuf::Struct* options);
// "PATTERN:skip" or "PATTERN:k=v,k=v"; split at the last ':'.
absl::Status ApplyOverride(const std::string& text,
                           google::protobuf::RepeatedPtrField<v1::ModuleOverride>* overrides);
void SetNumber(const std::string& name, double value, google::protobuf::Struct* options);

}  // namespace quantd
