// See activations.h.
#include "workers/engine/quantize/activations.h"

#include <ATen/ops/from_blob.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {

int64_t ActivationShape::Bytes() const {
  return sequences * length * width * static_cast<int64_t>(c10::elementSize(dtype));
}

absl::StatusOr<ActivationStore> ActivationStore::InMemory(const ActivationShape& shape,
                                                          at::Device device) {
  ActivationStore result;
  absl::Status status = TorchCall(
      absl::StrCat("making room for ", FormatBytes(shape.Bytes()), " of calibration activations"),
      [&] {
        result.store_ = at::empty({shape.sequences, shape.length, shape.width},
                                  at::TensorOptions().dtype(shape.dtype).device(device));
      });
  if (!status.ok()) return status;
  return result;
}

absl::StatusOr<ActivationStore> ActivationStore::InFile(const ActivationShape& shape,
                                                        const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/activations.tmp");
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return ErrnoStatus(errno, "creating ", path);
  unlink(path.c_str());
  // Reserved now, so that a full disk is an error here and not a fault later.
  const int error = posix_fallocate(fd, 0, shape.Bytes());
  if (error != 0) {
    close(fd);
    return ErrnoStatus(error, "reserving ", FormatBytes(shape.Bytes()), " for ", path);
  }
  const size_t size = static_cast<size_t>(shape.Bytes());
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const int map_error = errno;
  close(fd);
  if (data == MAP_FAILED) return ErrnoStatus(map_error, "mapping ", path);
  ActivationStore result;
  result.in_file_ = true;
  result.store_ = at::from_blob(
      data, {shape.sequences, shape.length, shape.width},
      [size](void* mapped) { munmap(mapped, size); }, at::TensorOptions().dtype(shape.dtype));
  return result;
}

absl::StatusOr<at::Tensor> ActivationStore::Read(int64_t begin, int64_t count,
                                                 at::Device device) const {
  return TorchCall("reading calibration activations", [&] {
    const at::Tensor rows = store_.narrow(0, begin, count);
    if (!in_file_) return rows.to(device);
    const at::Tensor copy = rows.to(device, /*non_blocking=*/false, /*copy=*/true);
    Release(begin, count);
    return copy;
  });
}

absl::Status ActivationStore::Write(int64_t begin, const at::Tensor& values) {
  return TorchCall("storing calibration activations", [&] {
    store_.narrow(0, begin, values.size(0)).copy_(values);
    if (in_file_) Release(begin, values.size(0));
  });
}

absl::Status ActivationStore::MoveToHost() {
  return TorchCall("moving calibration activations to host memory",
                   [&] { store_ = store_.to(at::kCPU); });
}

void ActivationStore::Release(int64_t begin, int64_t count) const {
  const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t row_bytes = store_.stride(0) * static_cast<int64_t>(store_.element_size());
  // Whole pages only; those shared with neighbouring sequences stay a little longer.
  const int64_t from = (begin * row_bytes + page - 1) / page * page;
  const int64_t to = (begin + count) * row_bytes / page * page;
  if (to > from) {
    madvise(static_cast<char*>(store_.mutable_data_ptr()) + from, static_cast<size_t>(to - from),
            MADV_DONTNEED);
  }
}

}  // namespace quantd::engine
