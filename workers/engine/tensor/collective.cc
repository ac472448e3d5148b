// The few NCCL calls that are needed, declared here as nccl.h declares them (their ABI is stable):
// libtorch's CUDA half brings the library, and building needs none.
#include "workers/engine/tensor/collective.h"

#include <ATen/ops/maximum.h>
#include <dlfcn.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/kernels.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

class Copying : public Collective {
 public:
  absl::Status Reduce(Operation operation, absl::Span<const at::Tensor> parts) override {
    return TorchCall("adding up over devices", [&] {
      at::Tensor total = parts[0];
      for (size_t i = 1; i < parts.size(); ++i) {
        const at::Tensor part = parts[i].to(total.device());
        total = operation == Operation::kSum ? total + part : at::maximum(total, part);
      }
      for (const at::Tensor& part : parts) part.copy_(total);
    });
  }
};

using Communicator = struct NcclCommunicator*;
constexpr int kFloat32 = 7;  // ncclFloat32
constexpr int kSum = 0;      // ncclSum
constexpr int kMax = 2;      // ncclMax

struct Nccl {
  int (*init_all)(Communicator*, int, const int*) = nullptr;
  int (*all_reduce)(const void*, void*, size_t, int, int, Communicator, void*) = nullptr;
  int (*group_start)() = nullptr;
  int (*group_end)() = nullptr;
  int (*destroy)(Communicator) = nullptr;
  const char* (*error_string)(int) = nullptr;
  const char* (*last_error)(Communicator) = nullptr;
  bool usable = false;
};

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// libtorch's CUDA half has it open already, so that its name is enough. Never closed.
const Nccl& Library() {
  static const Nccl nccl = [] {
    Nccl made;
    void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    made.usable = library != nullptr && Find(library, "ncclCommInitAll", &made.init_all) &&
                  Find(library, "ncclAllReduce", &made.all_reduce) &&
                  Find(library, "ncclGroupStart", &made.group_start) &&
                  Find(library, "ncclGroupEnd", &made.group_end) &&
                  Find(library, "ncclCommDestroy", &made.destroy) &&
                  Find(library, "ncclGetErrorString", &made.error_string) &&
                  Find(library, "ncclGetLastError", &made.last_error);
    return made;
  }();
  return nccl;
}

class NcclOfOneProcess : public Collective {
 public:
  static absl::StatusOr<std::unique_ptr<Collective>> Create(absl::Span<const at::Device> gpus) {
    if (!Library().usable) {
      return absl::FailedPreconditionError("NCCL (libnccl.so.2, 2.13 or newer) does not load");
    }
    // Its parts find each other through sockets even in one process; confined engines have none.
    const int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (probe < 0) return absl::FailedPreconditionError("NCCL needs sockets, and there are none");
    close(probe);
    std::vector<int> indices;
    for (const at::Device& gpu : gpus) indices.push_back(gpu.index());
    std::unique_ptr<NcclOfOneProcess> made(new NcclOfOneProcess(gpus.size()));
    const int error = Library().init_all(made->communicators_.data(),
                                         static_cast<int>(indices.size()), indices.data());
    if (error == 0) return made;
    made->communicators_.clear();
    return absl::FailedPreconditionError(Words("NCCL does not start", error, nullptr));
  }

  ~NcclOfOneProcess() override {
    for (Communicator communicator : communicators_) Library().destroy(communicator);
  }

  absl::Status Reduce(Operation operation, absl::Span<const at::Tensor> parts) override {
    Library().group_start();
    int error = 0;
    for (size_t i = 0; i < parts.size() && error == 0; ++i) {
      void* data = parts[i].mutable_data_ptr();
      error = Library().all_reduce(data, data, static_cast<size_t>(parts[i].numel()), kFloat32,
                                   operation == Operation::kSum ? kSum : kMax, communicators_[i],
                                   StreamOn(parts[i].device()));
    }
    const int end = Library().group_end();
    if (error == 0) error = end;
    if (error == 0) return absl::OkStatus();
    return WithErrorClass(
        absl::InternalError(Words("adding up over GPUs with NCCL", error, communicators_[0])),
        ErrorClass::kDeviceFault);
  }

 private:
  explicit NcclOfOneProcess(size_t gpus) : communicators_(gpus) {}
  static std::string Words(absl::string_view what, int error, Communicator communicator) {
    return absl::StrCat(what, ": ", Library().error_string(error), "; ",
                        Library().last_error(communicator));
  }

  std::vector<Communicator> communicators_;
};

}  // namespace

std::unique_ptr<Collective> CopyingCollective() { return std::make_unique<Copying>(); }

absl::StatusOr<std::unique_ptr<Collective>> NcclCollective(absl::Span<const at::Device> gpus) {
  return NcclOfOneProcess::Create(gpus);
}

}  // namespace quantd::engine
