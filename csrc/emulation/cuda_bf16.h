// bfloat16, with the CPU backend's conversions.
#pragma once

#include "../cpu/simd.h"

struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float x);
};

inline float __bfloat162float(__nv_bfloat16 x) {
  return mrda::MRDA_ISA::load_scalar(reinterpret_cast<const mrda::MRDA_ISA::BFloat16*>(&x));
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  __nv_bfloat16 rounded;
  mrda::MRDA_ISA::store_elements(reinterpret_cast<mrda::MRDA_ISA::BFloat16*>(&rounded), 1, 1, mrda::MRDA_ISA::splat(x));
  return rounded;
}
inline __nv_bfloat16::__nv_bfloat16(float x) : __nv_bfloat16(__float2bfloat16_rn(x)) {}
