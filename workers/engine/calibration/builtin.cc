// The calibration text that ships with the engine, so that no job needs a download: default.jsonl,
// whose licence is beside it.
#include "workers/engine/calibration/builtin.h"

// The assembler copies the file; the labels mark its ends.
asm(".section .rodata\n"
    ".global quantd_calibration_begin\n"
    "quantd_calibration_begin:\n"
    ".incbin \"" QUANTD_CALIBRATION_TEXT
    "\"\n"
    ".global quantd_calibration_end\n"
    "quantd_calibration_end:\n"
    ".byte 0\n"
    ".text\n");

extern "C" {
extern const char quantd_calibration_begin[];
extern const char quantd_calibration_end[];
}

namespace quantd::engine {

absl::string_view BuiltinCalibrationText() {
  return {quantd_calibration_begin,
          static_cast<size_t>(quantd_calibration_end - quantd_calibration_begin)};
}

}  // namespace quantd::engine
