// SPDX-License-Identifier: Apache-2.0
// Element types, vectors of neighbouring elements, and the arithmetic that CUDA has its own functions for.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>

#include "../rda_conv.h"

// The block's dynamic shared memory. The emulation defines its own.
#ifndef MRDA_DYNAMIC_SHARED
#define MRDA_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

// A GPU traps on a misaligned access; the emulation checks for it here.
#ifndef MRDA_CHECK_ALIGNED
#define MRDA_CHECK_ALIGNED(address, bytes)
#endif

namespace mrda {
namespace gpu {

template <class T>
struct AccumulatorOf {
  using type = T;
};
template <>
struct AccumulatorOf<__nv_bfloat16> {
  using type = float;
};
template <>
struct AccumulatorOf<__half> {
  using type = float;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

// Elements in 16 bytes, the widest access of a thread.
template <class T>
constexpr int kVectorLog2 = sizeof(T) == 8 ? 1 : sizeof(T) == 4 ? 2 : 3;
template <class T>
constexpr int kVector = 1 << kVectorLog2<T>;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }

// Rounds to nearest, ties to even.
template <class T>
__device__ __forceinline__ T narrow(Accumulator<T> x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ __half narrow<__half>(float x) {
  return __float2half_rn(x);
}

// V neighbouring elements. The alignment lets the compiler move up to 16 bytes in one access.
template <class T, int V>
struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) AlignedVector {
  T data[V];
};

template <int V, class T>
__device__ __forceinline__ AlignedVector<T, V> load_vector(const T* from) {
  MRDA_CHECK_ALIGNED(from, alignof(AlignedVector<T, V>));
  return *reinterpret_cast<const AlignedVector<T, V>*>(from);
}

template <int V, class T>
__device__ __forceinline__ void store_vector(T* to, const AlignedVector<T, V>& vector) {
  MRDA_CHECK_ALIGNED(to, alignof(AlignedVector<T, V>));
  *reinterpret_cast<AlignedVector<T, V>*>(to) = vector;
}

template <int V, class T>
__device__ __forceinline__ void widen(const AlignedVector<T, V>& vector, Accumulator<T> (&to)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) to[v] = widen(vector.data[v]);
}

// A bfloat16 is the upper half of a float, so that one instruction widens each element of a pair.
template <int V>
__device__ __forceinline__ void widen(const AlignedVector<__nv_bfloat16, V>& vector, float (&to)[V]) {
  static_assert(V % 2 == 0, "");
  uint32_t pairs[V / 2];
  memcpy(pairs, vector.data, sizeof(pairs));
#pragma unroll
  for (int i = 0; i < V / 2; ++i) {
    to[2 * i] = __uint_as_float(pairs[i] << 16);
    to[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
  }
}

// Two elements of 16 bits in one register, the first one in its lower half.
template <class T>
__device__ __forceinline__ uint32_t pack(float first, float second);
template <>
__device__ __forceinline__ uint32_t pack<__nv_bfloat16>(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}
template <>
__device__ __forceinline__ uint32_t pack<__half>(float first, float second) {
  const __half2 pair = __floats2half2_rn(first, second);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}
template <class T>
__device__ __forceinline__ void unpack(uint32_t bits, float (&to)[2]) {
  AlignedVector<T, 2> pair;
  memcpy(pair.data, &bits, sizeof(bits));
  widen(pair, to);
}

template <int V, class T>
__device__ __forceinline__ void load(const T* from, Accumulator<T> (&to)[V]) {
  widen(load_vector<V>(from), to);
}

template <int V, class T>
__device__ __forceinline__ void store(T* to, const Accumulator<T> (&from)[V]) {
  AlignedVector<T, V> vector;
  if constexpr (sizeof(T) == 2 && V % 2 == 0) {
    uint32_t pairs[V / 2];
#pragma unroll
    for (int i = 0; i < V / 2; ++i) pairs[i] = pack<T>(from[2 * i], from[2 * i + 1]);
    memcpy(vector.data, pairs, sizeof(pairs));
  } else {
#pragma unroll
    for (int v = 0; v < V; ++v) vector.data[v] = narrow<T>(from[v]);
  }
  store_vector(to, vector);
}

__device__ __forceinline__ float sigmoid(float logit) {
  float x = -logit;
  x = x > 87.0f ? 87.0f : x;  // keeps expf finite, and a NaN a NaN
  const float d = 1.0f + expf(x);
  const float r = __fdividef(1.0f, d);  // within 2 ulp; a Newton step rounds it almost correctly
  return r + r * (1.0f - d * r);
}
__device__ __forceinline__ double sigmoid(double logit) { return 1.0 / (1.0 + exp(-logit)); }

// Gives each lane the sum over its group of 2^lanes_log2 neighbouring lanes. All lanes of the warp have to call it.
template <int N, class A>
__device__ __forceinline__ void warp_sum(A (&x)[N], int lanes_log2) {
#pragma unroll
  for (int i = 0; i < 5; ++i)
    if (i < lanes_log2) {
#pragma unroll
      for (int n = 0; n < N; ++n) x[n] += __shfl_xor_sync(0xffffffffu, x[n], 1 << i);
    }
}

template <class A>
Slopes<A> slopes_of(const RdaConvParams& p) {
  return {A(p.negative_slope), A(p.output_negative_slope)};
}

}  // namespace gpu
}  // namespace mrda
