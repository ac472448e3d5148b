// Sorts what libtorch throws into the classes that the rest of the program decides by.
#include "workers/engine/tensor/torch_call.h"

#include <c10/util/Exception.h>

#include <new>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "workers/engine/job/failure.h"

namespace quantd::engine {
namespace {

constexpr size_t kMessageBytesMax = 1'000;  // libtorch's own run to pages.

// What allocation failures say that do not come as an OutOfMemoryError: the host allocator's, the
// libraries'.
constexpr absl::string_view kOutOfMemoryWords[] = {"can't allocate memory", "out of memory",
                                                   "CUBLAS_STATUS_ALLOC_FAILED",
                                                   "CUSOLVER_STATUS_ALLOC_FAILED"};

thread_local int gradient_scopes = 0;

absl::Status FromText(absl::string_view words, absl::string_view text) {
  text = text.substr(0, kMessageBytesMax);
  for (const absl::string_view sign : kOutOfMemoryWords) {
    if (absl::StrContains(text, sign)) return OutOfMemoryError(absl::StrCat(words, ": ", text));
  }
  return absl::InternalError(absl::StrCat(words, ": ", text));
}

}  // namespace

absl::Status OutOfMemoryError(absl::string_view message) {
  return WithErrorClass(absl::ResourceExhaustedError(message), ErrorClass::kOutOfMemory);
}

GradientScope::GradientScope() { ++gradient_scopes; }
GradientScope::~GradientScope() { --gradient_scopes; }
bool GradientScope::open() { return gradient_scopes > 0; }

namespace torch_internal {

absl::Status CurrentException(absl::string_view words) {
  try {
    throw;
  } catch (const c10::OutOfMemoryError& error) {
    return OutOfMemoryError(absl::StrCat(
        words, ": ",
        absl::string_view(error.what_without_backtrace()).substr(0, kMessageBytesMax)));
  } catch (const c10::AcceleratorError& error) {
    const absl::Status status = FromText(words, error.what_without_backtrace());
    return IsOutOfMemory(status) ? status : WithErrorClass(status, ErrorClass::kDeviceFault);
  } catch (const c10::Error& error) {
    return FromText(words, error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return OutOfMemoryError(absl::StrCat(words, ": out of host memory"));
  } catch (const std::exception& error) {
    return FromText(words, error.what());
  } catch (...) {
    return absl::InternalError(absl::StrCat(words, ": an exception of unknown type"));
  }
}

}  // namespace torch_internal
}  // namespace quantd::engine
