// The activation functions of MLPs, one definition for every kernel and its reference.
#pragma once

#include <cmath>

#include "kernels/host_device.h"

namespace quantd::kernels {

enum class Activation { kNone, kRelu, kSilu, kGelu, kGeluTanh };

// In float32, within 2^-21 |x| of the exact value.
QD_HOST_DEVICE inline float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kRelu:
      return x > 0 ? x : x != x ? x : 0;
    case Activation::kSilu:
      return x / (1 + expf(-x));
    case Activation::kGelu:
      return 0.5f * x * (1 + erff(x * 0.70710678118654752f));
    case Activation::kGeluTanh:
      return 0.5f * x * (1 + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case Activation::kNone:
      break;
  }
  return x;
}

}  // namespace quantd::kernels
