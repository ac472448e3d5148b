// How OpenMP's threads (libtorch's) wait for work. Threads that spin starve whoever else works on
// the machine, other engines and our own threads (measured: decoding 30 times slower with three
// engines on two cores). Some 30 us of it cost the others nothing and save small models the sleep
// between operations. libgomp reads these variables before main begins.
#pragma once

namespace quantd {

struct OpenMpWait {
  const char* name;
  const char* value;
};
inline constexpr OpenMpWait kOpenMpWaits[] = {{"OMP_WAIT_POLICY", "passive"},
                                              {"GOMP_SPINCOUNT", "2000"}};

}  // namespace quantd
