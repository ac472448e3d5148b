// A named place at which sudden death is worth trying: beside a commit, an fsync, a rename, an
// answer. In the programs nobody stands behind the name: the function is a weak symbol that no
// library of ours defines, so a point is one comparison with null and no variable of the
// environment can make a program kill itself. The tests preload a library that defines it
// (tests/e2e/faults.cc) into the same programs that are shipped; the list of points and what each
// means is tests/e2e/fault_points.h.
#pragma once

extern "C" __attribute__((weak)) void quantd_fault_point(const char* name);

namespace quantd {

inline void FaultPoint(const char* name) {
  if (quantd_fault_point != nullptr) quantd_fault_point(name);
}

}  // namespace quantd
