// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "half_float.h"

using __nv_bfloat16 = mrda::emulation::HalfFloat<mrda::MRDA_ISA::BFloat16>;
inline float __bfloat162float(__nv_bfloat16 x) { return float(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }

struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
