// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "half_float.h"

using __half = mrda::emulation::HalfFloat<mrda::MRDA_ISA::Float16>;
inline float __half2float(__half x) { return float(x); }
inline __half __float2half_rn(float x) { return __half(x); }

struct __half2 {
  __half x, y;
};
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
