// float16, with the CPU backend's conversions.
#pragma once

#include "../cpu/simd.h"

struct __half {
  uint16_t bits;
  __half() = default;
  explicit __half(float x);
};

inline float __half2float(__half x) {
  return mrda::MRDA_ISA::load_scalar(reinterpret_cast<const mrda::MRDA_ISA::Float16*>(&x));
}
inline __half __float2half_rn(float x) {
  __half rounded;
  mrda::MRDA_ISA::store_elements(reinterpret_cast<mrda::MRDA_ISA::Float16*>(&rounded), 1, 1, mrda::MRDA_ISA::splat(x));
  return rounded;
}
inline __half::__half(float x) : __half(__float2half_rn(x)) {}
