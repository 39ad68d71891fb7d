// SPDX-License-Identifier: Apache-2.0
// Lanes: one register of floats or doubles, as wide as the instruction set that this file is compiled for, written in
// the vector extension of GCC and Clang, without intrinsics.
#pragma once

#include <cstdint>
#include <cstring>

#include "../rda_conv.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#if defined(__clang__)
#pragma clang diagnostic ignored "-Wpsabi"
#else
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed between inlined functions only
#endif

#define MRDA_MEMBER inline __attribute__((always_inline))
#define MRDA_INLINE static MRDA_MEMBER
#define MRDA_LAMBDA __attribute__((always_inline))

namespace mrda {
namespace MRDA_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class A>
constexpr int kLanes = kVectorBytes / int(sizeof(A));

template <class E, int N>
struct VectorOf {
  typedef E type __attribute__((vector_size(N * sizeof(E))));
};
template <class A>
using Vec = typename VectorOf<A, kLanes<A>>::type;
using Int32 = VectorOf<int32_t, kLanes<float>>::type;
using Bits32 = VectorOf<uint32_t, kLanes<float>>::type;
using Bits16 = VectorOf<uint16_t, kLanes<float>>::type;

template <class To, class From>
MRDA_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

template <class A>
MRDA_INLINE Vec<A> splat(A value) {
  return value - Vec<A>{};
}

template <class A>
MRDA_INLINE Vec<A> load(const A* p) {
  Vec<A> v;
  memcpy(&v, p, sizeof(v));
  return v;
}

template <class A>
MRDA_INLINE void store(A* p, Vec<A> v) {
  memcpy(p, &v, sizeof(v));
}

// Adds pairwise: in a fixed order, with the smallest rounding error.
template <class A, int N = kLanes<A>>
MRDA_INLINE A horizontal_sum(typename VectorOf<A, N>::type v) {
  if constexpr (N == 2) {
    return v[0] + v[1];
  } else {
    struct {
      typename VectorOf<A, N / 2>::type low, high;
    } half;
    memcpy(&half, &v, sizeof(v));
    return horizontal_sum<A, N / 2>(half.low + half.high);
  }
}

// ---- element types -------------------------------------------------------------------------------------

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class T>
struct Element {  // float, double: stored as computed
  using Accumulator = T;
  using Raw = Vec<T>;
  MRDA_INLINE Vec<T> widen(Raw raw) { return raw; }
  MRDA_INLINE Raw narrow(Vec<T> v) { return v; }
};

template <>
struct Element<BFloat16> {
  using Accumulator = float;
  using Raw = Bits16;
  MRDA_INLINE Vec<float> widen(Raw raw) {
    return bit_cast<Vec<float>>(__builtin_convertvector(raw, Bits32) << 16);
  }
  MRDA_INLINE Raw narrow(Vec<float> v) {  // round to nearest even; a NaN stays one
#if defined(__AVX512BF16__)
    return bit_cast<Raw>(_mm512_cvtneps_pbh(__m512(v)));  // subnormal numbers become zero
#endif
    const Bits32 u = bit_cast<Bits32>(v);
    const Bits32 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const Bits32 quiet = (u >> 16) | 0x40u;
    return __builtin_convertvector((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded, Bits16);
  }
};

template <>
struct Element<Float16> {
  using Accumulator = float;
  using Raw = Bits16;
  MRDA_INLINE Vec<float> widen(Raw raw) {
    const Bits32 h = __builtin_convertvector(raw, Bits32);
    const Bits32 a = h & 0x7fffu;
    const Bits32 normal = (a << 13) + (112u << 23);  // from half's exponent bias to float's
    const Bits32 special = (a << 13) | 0x7f800000u;
    // computed as a multiple of the smallest subnormal, never as a float subnormal, which a thread may be set to flush
    const Bits32 tiny = bit_cast<Bits32>(__builtin_convertvector(bit_cast<Int32>(a), Vec<float>) * 0x1p-24f);
    const Bits32 finite = a < 0x400u ? tiny : normal;
    return bit_cast<Vec<float>>((a >= 0x7c00u ? special : finite) | ((h & 0x8000u) << 16));
  }
  MRDA_INLINE Raw narrow(Vec<float> v) {  // round to nearest even
    const Bits32 u = bit_cast<Bits32>(v);
    const Bits32 a = u & 0x7fffffffu;
    const Bits32 normal = (a - (112u << 23) + 0xfffu + ((a >> 13) & 1u)) >> 13;
    // adding 0.5, whose last place is half's smallest subnormal, rounds there
    const Bits32 tiny = bit_cast<Bits32>(bit_cast<Vec<float>>(a) + 0.5f) - 0x3f000000u;
    const Bits32 quiet = Bits32{} + 0x7e00u, infinite = Bits32{} + 0x7c00u;
    const Bits32 huge = a > 0x7f800000u ? quiet : infinite;
    const Bits32 h = a >= 0x47800000u ? huge : (a < 0x38800000u ? tiny : normal);
    return __builtin_convertvector(h | ((u >> 16) & 0x8000u), Bits16);
  }
};

template <class T>
using Accumulator = typename Element<T>::Accumulator;

template <class T>
MRDA_INLINE Vec<Accumulator<T>> load_whole(const T* p) {
  typename Element<T>::Raw raw;
  memcpy(&raw, p, sizeof(raw));
  return Element<T>::widen(raw);
}

// Loads `count` elements, `stride` apart, as lanes; the other lanes are zero.
template <class T>
MRDA_INLINE Vec<Accumulator<T>> load_elements(const T* p, int64_t stride, int64_t count) {
  T lane[kLanes<Accumulator<T>>] = {};
  for (int i = 0; i < kLanes<Accumulator<T>> && i < count; ++i) lane[i] = p[i * stride];
  return load_whole(lane);
}

template <class T>
MRDA_INLINE void store_whole(T* p, Vec<Accumulator<T>> v) {
  const typename Element<T>::Raw raw = Element<T>::narrow(v);
  memcpy(p, &raw, sizeof(raw));
}

template <class T>
MRDA_INLINE void store_elements(T* p, int64_t stride, int64_t count, Vec<Accumulator<T>> v) {
  T lane[kLanes<Accumulator<T>>];
  store_whole(lane, v);
  for (int i = 0; i < kLanes<Accumulator<T>> && i < count; ++i) p[i * stride] = lane[i];
}

MRDA_INLINE float load_scalar(const float* p) { return *p; }
MRDA_INLINE double load_scalar(const double* p) { return *p; }
template <class T>
MRDA_INLINE float load_scalar(const T* p) {
  return Element<T>::widen(Bits16{} + p->bits)[0];
}

// ---- exp and sigmoid ------------------------------------------------------------------------------------

template <class A>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  using Int = VectorOf<int32_t, kLanes<float>>::type;
  static constexpr float kLimit = 87.0f;  // exp(+-87) is a normal number
  static constexpr float kRound = 0x1.8p23f, kLog2e = 1.44269504f;
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr int kDegree = 7, kMantissa = 23, kBias = 127;  // the series' rest is below 6e-9
};
template <>
struct ExpConstants<double> {
  using Int = VectorOf<int64_t, kLanes<double>>::type;
  static constexpr double kLimit = 708.0;
  static constexpr double kRound = 0x1.8p52, kLog2e = 1.4426950408889634;
  static constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  static constexpr int kDegree = 13, kMantissa = 52, kBias = 1023;  // ... below 5e-18
};

// exp(x) for |x| <= kLimit: x = n ln 2 + r with |r| <= ln(2)/2, and the exponential series for r.
template <class A>
MRDA_INLINE Vec<A> exponential(Vec<A> x) {
  using C = ExpConstants<A>;
  const Vec<A> n = (x * C::kLog2e + C::kRound) - C::kRound;
  const Vec<A> r = (x - n * C::kLn2High) - n * C::kLn2Low;
  Vec<A> sum = splat<A>(1);
#pragma GCC unroll 16
  for (int k = C::kDegree; k > 0; --k) sum = sum * (r * (A(1) / A(k))) + A(1);
  const typename C::Int exponent = (__builtin_convertvector(n, typename C::Int) + C::kBias) << C::kMantissa;
  return sum * bit_cast<Vec<A>>(exponent);
}

template <class A>
MRDA_INLINE Vec<A> sigmoid(Vec<A> t) {
  const Vec<A> limit = splat<A>(ExpConstants<A>::kLimit);
  Vec<A> x = -t;
  x = x > limit ? limit : x;  // a NaN passes both comparisons
  x = x < -limit ? -limit : x;
  return A(1) / (A(1) + exponential<A>(x));
}

}  // namespace MRDA_ISA
}  // namespace mrda
