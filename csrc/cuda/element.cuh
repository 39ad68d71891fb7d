// Element types, and runs of neighbouring ones as a thread handles them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "../rda_conv.h"

// The block's dynamic shared memory. (The emulation has its own.)
#ifndef MRDA_DYNAMIC_SHARED
#define MRDA_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
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
__device__ __forceinline__ void load(const T* from, Accumulator<T> (&to)[V]) {
  const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(from);
#pragma unroll
  for (int v = 0; v < V; ++v) to[v] = widen(pack.at[v]);
}

template <int V, class T>
__device__ __forceinline__ void store(T* to, const Accumulator<T> (&from)[V]) {
  Pack<T, V> pack;
#pragma unroll
  for (int v = 0; v < V; ++v) pack.at[v] = narrow<T>(from[v]);
  *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

// exp of a large number is infinite, and 1 over it 0: no clamping is needed.
__device__ __forceinline__ float sigmoid(float t) { return 1.0f / (1.0f + expf(-t)); }
__device__ __forceinline__ double sigmoid(double t) { return 1.0 / (1.0 + exp(-t)); }

// The sum over 2^log2 neighbouring lanes, in each of them; all lanes of the warp take part.
template <class A>
__device__ __forceinline__ A sum_lanes(A x, int log2) {
  for (int i = 0; i < log2; ++i) x += __shfl_xor_sync(0xffffffffu, x, 1 << i);
  return x;
}

}  // namespace gpu
}  // namespace mrda
