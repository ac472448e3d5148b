// Landlock's and seccomp's raw interfaces: Debian 12's headers are older than the kernels this runs
// on.
#include "workers/agent/confinement.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/agent/child_process.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;

// linux/landlock.h, up to version 6 of its interface.
enum : uint64_t {
  kExecute = 1 << 0,
  kWriteFile = 1 << 1,
  kReadFile = 1 << 2,
  kReadFolder = 1 << 3,
  kRemoveFolder = 1 << 4,
  kRemoveFile = 1 << 5,
  kMakeFolder = 1 << 7,
  kMakeFile = 1 << 8,
  kMakeLink = 1 << 12,
  kVersion1 = (1 << 13) - 1,
  kRefer = 1 << 13,     // Version 2.
  kTruncate = 1 << 14,  // Version 3.
};
constexpr uint64_t kOfFiles = kExecute | kWriteFile | kReadFile | kTruncate;
constexpr uint64_t kReading = kReadFile | kReadFolder;
constexpr uint64_t kWriting = kReadFile | kReadFolder | kWriteFile | kRemoveFolder | kRemoveFile |
                              kMakeFolder | kMakeFile | kMakeLink | kRefer | kTruncate;
constexpr uint64_t kScopes = 3;  // Version 6: abstract sockets and signals of others.
struct RulesetAttributes {
  uint64_t files;
  uint64_t network;
  uint64_t scoped;
};
struct __attribute__((packed)) PathRule {
  uint64_t allowed;
  int32_t parent_fd;
};
constexpr int kPathRule = 1;

// A job with threads on every core and a few helpers stays far below.
constexpr rlim_t kProcessesMax = 16'384;
constexpr rlim_t kDescriptorsMax = 65'536;
constexpr size_t kLinksMax = 10'000;

constexpr const char* kSystemFolders[] = {
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/proc", "/sys", "/opt/cuda",
    // Of /etc only what libraries read: no passwords, no keys.
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives",
    "/etc/localtime", "/etc/timezone", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf",
    "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ca-certificates", "/etc/pki",
    "/etc/resolv.conf", "/run/systemd/resolve", "/etc/hosts", "/etc/host.conf", "/etc/gai.conf",
    "/etc/services", "/etc/protocols"};
// Of /dev neither disks nor terminals.
constexpr const char* kDevices[] = {"/dev/null",   "/dev/zero",    "/dev/full",
                                    "/dev/random", "/dev/urandom", "/dev/shm"};
constexpr const char* kAcceleratorPrefixes[] = {"nvidia", "dri", "kfd", "infiniband"};

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
constexpr uint32_t kForeignCalls = 0x40000000;  // The x32 numbers.
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
constexpr uint32_t kForeignCalls = 0;
#else
constexpr uint32_t kArchitecture = 0;  // No filter for this machine yet.
constexpr uint32_t kForeignCalls = 0;
#endif

// What a computation has no use for and an exploit has.
constexpr int kDeniedCalls[] = {
#ifndef __SANITIZE_ADDRESS__  // Its leak check stops its own threads with it.
    SYS_ptrace,
#endif
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    SYS_pidfd_getfd,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_unshare,
    SYS_setns,
    SYS_open_tree,
    SYS_move_mount,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_open_by_handle_at,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_clock_adjtime,
    SYS_adjtimex,
    SYS_acct,
    SYS_quotactl,
    SYS_syslog,
    SYS_vhangup,
#if defined(__x86_64__)
    SYS_iopl,
    SYS_ioperm,
    SYS_modify_ldt,
#endif
};
constexpr uint32_t kNewNamespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                    CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

int LandlockVersion() {
  const long version = syscall(SYS_landlock_create_ruleset, nullptr, 0, 1);  // NOLINT
  return version > 0 ? static_cast<int>(version) : 0;
}

uint64_t Handled(int version) {
  uint64_t handled = kVersion1;
  if (version >= 2) handled |= kRefer;
  if (version >= 3) handled |= kTruncate;
  return handled;
}

absl::Status Allow(int ruleset, const std::string& path, uint64_t rights) {
  const int fd = open(path.c_str(), O_PATH | O_CLOEXEC);
  if (fd < 0) return absl::OkStatus();  // Not there: nothing to allow.
  struct stat status = {};
  fstat(fd, &status);
  if (!S_ISDIR(status.st_mode)) rights &= kOfFiles;
  const PathRule rule = {.allowed = rights, .parent_fd = fd};
  const long added = syscall(SYS_landlock_add_rule, ruleset, kPathRule, &rule, 0);  // NOLINT
  const int error = errno;
  close(fd);
  return added == 0 ? absl::OkStatus() : ErrnoStatus(error, "allowing an engine ", path);
}

bool IsFetched(absl::string_view name) {
  return !name.empty() && name[0] != '/' && !absl::StartsWith(name, "jobs/") &&
         !absl::StartsWith(name, "artifacts/");
}

// Calls `use` with every string of the message, and the name of its field.
void VisitStrings(const google::protobuf::Message& message,
                  const std::function<void(const std::string&, const std::string&)>& use) {
  using google::protobuf::FieldDescriptor;
  const auto* reflection = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const int count = field->is_repeated() ? reflection->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
        use(field->name(), field->is_repeated() ? reflection->GetRepeatedString(message, field, i)
                                                : reflection->GetString(message, field));
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        VisitStrings(field->is_repeated() ? reflection->GetRepeatedMessage(message, field, i)
                                          : reflection->GetMessage(message, field),
                     use);
      }
    }
  }
}

}  // namespace

std::string ConfinementSupport::Describe() const {
  return absl::StrCat(landlock > 0 ? absl::StrCat("landlock ", landlock) : "no landlock", ", ",
                      seccomp ? "seccomp" : "no seccomp");
}

ConfinementSupport ProbeConfinement() {
  const uint32_t action = SECCOMP_RET_ERRNO;
  return {.landlock = LandlockVersion(),
          .seccomp = kArchitecture != 0 &&
                     syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0};
}

absl::StatusOr<std::shared_ptr<const Confinement>> Confinement::Prepare(
    const ConfinementPlan& plan) {
  const ConfinementSupport support = ProbeConfinement();
  std::shared_ptr<Confinement> made(new Confinement);
  made->as_user_ = plan.as_user;
  made->user_ = plan.user;
  if (support.landlock > 0) QD_RETURN_IF_ERROR(made->MakeRuleset(plan, support.landlock));
  if (support.seccomp) made->MakeFilter(plan.network);
  return made;
}

Confinement::~Confinement() {
  if (ruleset_fd_ >= 0) close(ruleset_fd_);
}

absl::Status Confinement::MakeRuleset(const ConfinementPlan& plan, int version) {
  const RulesetAttributes attributes = {
      .files = Handled(version), .network = 0, .scoped = version >= 6 ? kScopes : 0};
  const size_t size = version >= 6 ? sizeof(attributes) : sizeof(attributes.files);
  const int low = static_cast<int>(syscall(SYS_landlock_create_ruleset, &attributes, size, 0));
  if (low < 0) return ErrnoStatus(errno, "making a Landlock ruleset");
  ruleset_fd_ = fcntl(low, F_DUPFD_CLOEXEC, 10);  // The child uses the numbers below.
  close(low);
  if (ruleset_fd_ < 0) return ErrnoStatus(errno, "making a Landlock ruleset");
  for (const std::string& path : plan.programs) {
    QD_RETURN_IF_ERROR(Allow(ruleset_fd_, path, kReading | kExecute));
  }
  for (const std::string& path : plan.readable) {
    QD_RETURN_IF_ERROR(Allow(ruleset_fd_, path, kReading));
  }
  for (const std::string& path : plan.writable) {
    QD_RETURN_IF_ERROR(Allow(ruleset_fd_, path, kWriting & Handled(version)));
  }
  for (const char* path : kDevices) {
    QD_RETURN_IF_ERROR(Allow(ruleset_fd_, path, kWriting & Handled(version)));
  }
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/dev", error)) {
    for (const char* prefix : kAcceleratorPrefixes) {
      if (!absl::StartsWith(entry.path().filename().string(), prefix)) continue;
      QD_RETURN_IF_ERROR(Allow(ruleset_fd_, entry.path(), kWriting & Handled(version)));
    }
  }
  return absl::OkStatus();
}

void Confinement::MakeFilter(bool network) {
  const auto add = [this](uint16_t code, uint32_t k, uint8_t if_true = 0, uint8_t if_false = 0) {
    filter_.push_back({.code = code, .jt = if_true, .jf = if_false, .k = k});
  };
  const auto refuse = [&](int error) { add(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error); };
  const auto deny = [&](int call, int error) {
    add(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 1);
    refuse(error);
  };
  add(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch));
  add(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0);
  add(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  add(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
  if (kForeignCalls != 0) {
    add(BPF_JMP | BPF_JGE | BPF_K, kForeignCalls, 0, 1);
    refuse(ENOSYS);
  }
  for (const int call : kDeniedCalls) deny(call, EPERM);
  deny(SYS_clone3, ENOSYS);  // Its flags cannot be looked at; the C library falls back to clone.
  if (!network) deny(SYS_socket, EACCES);
  add(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3);
  add(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[0]));
  add(BPF_JMP | BPF_JSET | BPF_K, kNewNamespaces, 0, 1);
  refuse(EPERM);
  add(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
}

bool Confinement::TakeUser() const {
  if (!as_user_) return true;
  return setgroups(0, nullptr) == 0 && setresgid(user_.gid, user_.gid, user_.gid) == 0 &&
         setresuid(user_.uid, user_.uid, user_.uid) == 0;
}

bool Confinement::LimitResources() const {
  const auto lower = [](__rlimit_resource_t resource, rlim_t value) {
    rlimit limit = {};
    if (getrlimit(resource, &limit) != 0) return;
    if (limit.rlim_max > value) limit.rlim_max = value;
    if (limit.rlim_cur > limit.rlim_max) limit.rlim_cur = limit.rlim_max;
    setrlimit(resource, &limit);
  };
  lower(RLIMIT_CORE, 0);
  lower(RLIMIT_NPROC, kProcessesMax);
  lower(RLIMIT_NOFILE, kDescriptorsMax);
  lower(RLIMIT_MSGQUEUE, 0);
  return true;
}

bool Confinement::EnterFiles() const {
  // A program that root starts gets what is left in this set: nothing, so that even root's engine
  // may not look into other processes (CAP_PERFMON passes Landlock by). Others fail here, rightly.
  for (int capability = 0; prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0; ++capability) {
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return false;
  return ruleset_fd_ < 0 || syscall(SYS_landlock_restrict_self, ruleset_fd_, 0) == 0;
}

bool Confinement::EnterCalls() const {
  if (filter_.empty()) return true;
  const sock_fprog program = {.len = static_cast<unsigned short>(filter_.size()),  // NOLINT
                              .filter = const_cast<sock_filter*>(filter_.data())};
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}

std::vector<std::string> EngineReadables(const std::string& engine) {
  std::vector<std::string> folders(std::begin(kSystemFolders), std::end(kSystemFolders));
  folders.push_back(fs::path(engine).parent_path());
  // The dynamic linker lists what it would load instead of starting the program.
  const auto listed = RunCommand(
      {.argv = {engine}, .environment = {{"LD_TRACE_LOADED_OBJECTS", "1"}}}, absl::Seconds(30));
  if (!listed.ok()) return folders;
  for (const absl::string_view line : absl::StrSplit(listed->output, '\n')) {
    const size_t arrow = line.find("=> /");
    if (arrow == absl::string_view::npos) continue;
    const std::string path(line.substr(arrow + 3, line.find(" (", arrow) - arrow - 3));
    std::error_code error;
    for (const fs::path& library : {fs::path(path), fs::canonical(path, error)}) {
      std::string folder = library.parent_path();
      // What libtorch opens later (its CUDA half, the driver's wheels) lies beside it.
      if (const size_t torch = folder.find("/torch/lib"); torch != std::string::npos) {
        folder.resize(torch);
      }
      if (!folder.empty() && folder != "/") folders.push_back(folder);
    }
  }
  return folders;
}

bool NeedsNetwork(const v1::JobSpec& spec) {
  bool needed = false;
  VisitStrings(spec, [&](const std::string& field, const std::string& text) {
    const bool named =
        field == "model" || field == "baseline" || field == "source" || field == "data";
    needed = needed || (named && IsFetched(text)) || absl::StartsWith(text, "hf://");
  });
  return needed;
}

std::vector<std::string> SpecPaths(const v1::JobSpec& spec, const std::vector<std::string>& roots) {
  std::vector<std::string> paths;
  const auto in_roots = [&](const std::string& path) {
    std::error_code error;
    const std::string real = fs::canonical(path, error);
    for (const std::string& root : roots) {
      const std::string real_root = fs::canonical(root, error);
      if (!error && (real == real_root || absl::StartsWith(real, real_root + "/"))) return true;
    }
    return roots.empty();
  };
  VisitStrings(spec, [&](const std::string&, const std::string& text) {
    if (text.size() < 2 || text[0] != '/') return;
    std::error_code error;
    if (!fs::exists(text, error) || !in_roots(text)) return;
    paths.push_back(text);
    if (!fs::is_directory(text, error)) return;
    for (const auto& entry : fs::directory_iterator(text, error)) {
      if (paths.size() >= kLinksMax) return;
      const fs::path target = entry.is_symlink(error) ? fs::canonical(entry, error) : fs::path();
      if (!target.empty()) paths.push_back(target);
    }
  });
  return paths;
}

absl::Status GiveToUser(const EngineUser& user, const std::string& job_folder,
                        const std::vector<std::string>& writable) {
  std::error_code error;
  // The way to the folder may be walked, not listed.
  for (fs::path at = job_folder; at.has_relative_path(); at = at.parent_path()) {
    struct stat status = {};
    if (stat(at.c_str(), &status) != 0 || (status.st_mode & S_IXOTH) != 0) continue;
    if (chmod(at.c_str(), status.st_mode | S_IXOTH) != 0) {
      return ErrnoStatus(errno, "opening the way to ", job_folder);
    }
  }
  std::vector<std::string> trees = writable;
  trees.push_back(job_folder);
  for (const std::string& tree : trees) {
    if (lchown(tree.c_str(), user.uid, user.gid) != 0) return ErrnoStatus(errno, "giving ", tree);
    for (auto entry = fs::recursive_directory_iterator(tree, error);
         entry != fs::recursive_directory_iterator(); entry.increment(error)) {
      if (error) break;
      struct stat status = {};
      const std::string path = entry->path();
      if (lstat(path.c_str(), &status) != 0) continue;
      if (!S_ISDIR(status.st_mode) && status.st_nlink > 1) continue;
      if (lchown(path.c_str(), user.uid, user.gid) != 0) return ErrnoStatus(errno, "giving ", path);
    }
  }
  return absl::OkStatus();
}

}  // namespace quantd
