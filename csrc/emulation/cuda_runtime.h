// SPDX-License-Identifier: Apache-2.0
// The part of CUDA that csrc/cuda uses, on the CPU. The headers here stand in for the real ones, so that a C++ compiler
// can build the same sources. emulation.cpp implements the functions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct int4 {
  int x, y, z, w;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace mrda {
namespace emulation {

// The built-in variables of the running thread.
extern dim3 thread_index, block_index, block_size, grid_size;
unsigned char* shared_memory();

void barrier();
// Waits until all lanes in `mask` have called it with the same function, which then runs once: lanes[i] is what lane i
// has given, and null for a lane that takes no part.
using WarpFunction = void (*)(void* const* lanes);
void with_warp(uint32_t mask, WarpFunction function, void* given);
// Exchanges 8 bytes within a warp. All lanes in `mask` have to call it.
uint64_t shuffle(uint32_t mask, uint64_t value, int source_lane);
void copy_async(void* to, const void* from, size_t bytes);
void check_aligned(const void* address, size_t bytes);
void commit();
void wait_prior(size_t groups);
int shared_bytes_per_block();  // of the GPU that is emulated
int multiprocessors();

// Runs body(argument) for every thread of every block.
int run(void (*body)(const void*), const void* argument, dim3 grid, dim3 block, size_t shared_bytes);

template <class Argument>
struct Call {
  void (*kernel)(Argument);
  Argument argument;
  static void body(const void* self) {
    const Call& call = *static_cast<const Call*>(self);
    call.kernel(call.argument);
  }
};

}  // namespace emulation
}  // namespace mrda

#define threadIdx mrda::emulation::thread_index
#define blockIdx mrda::emulation::block_index
#define blockDim mrda::emulation::block_size
#define gridDim mrda::emulation::grid_size
#define MRDA_DYNAMIC_SHARED(name) unsigned char* const name = mrda::emulation::shared_memory()

#define MRDA_KEEPS_ATTRIBUTES false
#define MRDA_CHECK_ALIGNED(address, bytes) mrda::emulation::check_aligned(address, bytes)

inline float __fdividef(float x, float y) { return x / y; }
inline float __uint_as_float(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

inline void __syncthreads() { mrda::emulation::barrier(); }
inline void __syncwarp(uint32_t mask = 0xffffffffu) { mrda::emulation::shuffle(mask, 0, int(threadIdx.x % 32)); }

template <class T>
T __shfl_sync(uint32_t mask, T value, int source_lane, int width = 32) {
  static_assert(sizeof(T) <= 8, "");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = mrda::emulation::shuffle(mask, bits, int(threadIdx.x % 32) / width * width + source_lane % width);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int lane_mask) {
  return __shfl_sync(mask, value, int(threadIdx.x % 32) ^ lane_mask);
}
bool __any_sync(uint32_t mask, bool predicate);

using cudaError_t = int;
using cudaStream_t = void*;
using cudaDeviceAttr = int;
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9, cudaErrorLaunchFailure = 719 };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };

const char* cudaGetErrorString(cudaError_t);
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 0; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 0; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int /* device */) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? mrda::emulation::multiprocessors()
                                                       : mrda::emulation::shared_bytes_per_block();
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, int, int) {
  return cudaSuccess;
}
template <class Argument>
cudaError_t cudaLaunchKernel(void (*kernel)(Argument), dim3 grid, dim3 block, void** arguments, size_t shared_bytes,
                             cudaStream_t) {
  using mrda::emulation::Call;
  const Call<Argument> call{kernel, *static_cast<const Argument*>(arguments[0])};
  return mrda::emulation::run(&Call<Argument>::body, &call, grid, block, shared_bytes);
}
