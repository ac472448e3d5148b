// What this machine's CPU and memory allow this process: affinity, cgroup (versions 1 and 2),
// /proc. Internal to the room; device.h declares what others use.
#pragma once

#include <string>

#include "workers/engine/tensor/device.h"

namespace quantd::engine {

DeviceInfo HostDevice();
// Starts the peak of resident memory anew, where the kernel allows it.
void ResetHostPeak();
// From now on freed memory stays with this process, up to 2 GiB at the heap's end. Tensors of tens
// of megabytes come and go thousands of times on their way to and from a GPU, and each time the
// system would make their pages anew: a third of AWQ's seconds.
void KeepFreedMemory();

// The same, from another root than "/", for tests: `root`/proc/self/cgroup, `root`/sys/fs/cgroup,
// ...
int ProcessorsOfCgroup(const std::string& root, int otherwise);
int64_t AvailableBytesOfCgroup(const std::string& root, int64_t otherwise);

}  // namespace quantd::engine
