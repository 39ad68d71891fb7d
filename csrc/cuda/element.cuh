// Element types, and runs of neighbouring ones as a thread handles them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstring>

#include "../rda_conv.h"

// The block's dynamic shared memory. (The emulation has its own.)
#ifndef MRDA_DYNAMIC_SHARED
#define MRDA_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

// On a GPU an access that is not aligned is an error; the emulation looks for it.
#ifndef MRDA_CHECK_ALIGNED
#define MRDA_CHECK_ALIGNED(address, bytes)
#endif

namespace mrda {
namespace gpu {

template <class T>
struct Element {  // float, double: computed as stored
  using Accumulator = T;
};
template <>
struct Element<__nv_bfloat16> {
  using Accumulator = float;
};
template <>
struct Element<__half> {
  using Accumulator = float;
};
template <class T>
using Accumulator = typename Element<T>::Accumulator;

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

// V neighbours, moved in one access where they are no more than 16 bytes.
template <class T, int V>
struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) Pack {
  T at[V];
};

template <int V, class T>
__device__ __forceinline__ Pack<T, V> load_pack(const T* from) {
  MRDA_CHECK_ALIGNED(from, alignof(Pack<T, V>));
  return *reinterpret_cast<const Pack<T, V>*>(from);
}

template <int V, class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, V>& pack) {
  MRDA_CHECK_ALIGNED(to, alignof(Pack<T, V>));
  *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

template <int V, class T>
__device__ __forceinline__ void widen(const Pack<T, V>& pack, Accumulator<T> (&to)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) to[v] = widen(pack.at[v]);
}

// A bfloat16 is the upper half of a float: two of them take one instruction each.
template <int V>
__device__ __forceinline__ void widen(const Pack<__nv_bfloat16, V>& pack, float (&to)[V]) {
  static_assert(V % 2 == 0, "");
  uint32_t pairs[V / 2];
  memcpy(pairs, pack.at, sizeof(pairs));
#pragma unroll
  for (int i = 0; i < V / 2; ++i) {
    to[2 * i] = __uint_as_float(pairs[i] << 16);
    to[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
  }
}

template <int V, class T>
__device__ __forceinline__ void load(const T* from, Accumulator<T> (&to)[V]) {
  widen(load_pack<V>(from), to);
}

template <int V, class T>
__device__ __forceinline__ void store(T* to, const Accumulator<T> (&from)[V]) {
  Pack<T, V> pack;
#pragma unroll
  for (int v = 0; v < V; ++v) pack.at[v] = narrow<T>(from[v]);
  store_pack(to, pack);
}

__device__ __forceinline__ float sigmoid(float t) {
  float x = -t;
  x = x > 87.0f ? 87.0f : x;  // exp of it is finite; a NaN stays
  const float d = 1.0f + expf(x);
  const float r = __fdividef(1.0f, d);  // good to 2 units in the last place; a Newton step rounds it as well as can be
  return r + r * (1.0f - d * r);
}
__device__ __forceinline__ double sigmoid(double t) { return 1.0 / (1.0 + exp(-t)); }

// The sums over 2^log2 neighbouring lanes, in each of them; all lanes of the warp take part.
template <int N, class A>
__device__ __forceinline__ void sum_lanes(A (&x)[N], int log2) {
#pragma unroll
  for (int i = 0; i < 5; ++i)
    if (i < log2) {
#pragma unroll
      for (int n = 0; n < N; ++n) x[n] += __shfl_xor_sync(0xffffffffu, x[n], 1 << i);
    }
}

}  // namespace gpu
}  // namespace mrda
