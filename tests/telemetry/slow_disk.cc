// Preloaded into a process, it makes every sync of a file take 700 ms while the file
// $QUANTD_SLOW_FILE exists.
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

namespace {

int Slowly(const char* name, int fd) {
  const char* file = getenv("QUANTD_SLOW_FILE");
  if (file != nullptr && access(file, F_OK) == 0) usleep(700'000);
  return reinterpret_cast<int (*)(int)>(dlsym(RTLD_NEXT, name))(fd);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int fsync(int fd) { return Slowly("fsync", fd); }
extern "C" __attribute__((visibility("default"))) int fdatasync(int fd) {
  return Slowly("fdatasync", fd);
}
