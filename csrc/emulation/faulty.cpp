// SPDX-License-Identifier: Apache-2.0
// Kernels with one mistake each, to test that the emulation catches it.
#include "faulty.h"

#include "cuda_runtime.h"

#include "cuda_pipeline.h"

namespace mrda {
namespace emulation {
namespace {

struct Arguments {
  float *from, *to;  // 64 elements each
};

// The correct kernel, of which the others are variants: element i of the result is element 63 - i.
__global__ void reverse_kernel(Arguments a) {
  MRDA_DYNAMIC_SHARED(memory);
  float* const shared = reinterpret_cast<float*>(memory);
  shared[threadIdx.x] = a.from[threadIdx.x];
  __syncthreads();
  a.to[threadIdx.x] = shared[63 - threadIdx.x];
}

__global__ void no_barrier_kernel(Arguments a) {
  MRDA_DYNAMIC_SHARED(memory);
  float* const shared = reinterpret_cast<float*>(memory);
  shared[threadIdx.x] = a.from[threadIdx.x];
  a.to[threadIdx.x] = shared[63 - threadIdx.x];
}

__global__ void lonely_barrier_kernel(Arguments) {
  if (threadIdx.x != 5) __syncthreads();
}

__global__ void lonely_shuffle_kernel(Arguments a) {
  if (threadIdx.x != 7) a.to[threadIdx.x] = __shfl_xor_sync(0xffffffffu, a.from[threadIdx.x], 1);
}

__global__ void barrier_or_shuffle_kernel(Arguments a) {
  if (threadIdx.x < 32) __syncthreads();
  else a.to[0] = __shfl_xor_sync(0xffffffffu, a.from[0], threadIdx.x == 40 ? 64 : 1);
}

__global__ void read_before_kernel(Arguments a) {
  volatile const float* from = a.from;
  a.to[threadIdx.x] = from[int(threadIdx.x) - 1024];
}

__global__ void write_past_kernel(Arguments a) { a.to[threadIdx.x + 1] = a.from[threadIdx.x]; }

__global__ void shared_past_kernel(Arguments a) {
  MRDA_DYNAMIC_SHARED(memory);
  reinterpret_cast<float*>(memory)[threadIdx.x + 1] = a.from[threadIdx.x];
}

__global__ void no_wait_kernel(Arguments a) {
  MRDA_DYNAMIC_SHARED(memory);
  float* const shared = reinterpret_cast<float*>(memory);
  __pipeline_memcpy_async(shared + threadIdx.x, a.from + threadIdx.x, 4);
  __pipeline_commit();
  a.to[threadIdx.x] = shared[threadIdx.x];
}

__global__ void unaligned_kernel(Arguments a) {
  MRDA_DYNAMIC_SHARED(memory);
  if (threadIdx.x == 0) __pipeline_memcpy_async(memory, a.from + 1, 16);
}

}  // namespace

const std::vector<std::string>& faulty_kernels() {
  static const std::vector<std::string> names = {"reverse",          "no_barrier", "lonely_barrier", "lonely_shuffle",
                                                 "barrier_or_shuffle", "read_before", "write_past",   "shared_past",
                                                 "no_wait",          "unaligned"};
  return names;
}

void run_faulty(const std::string& name, float* from, float* to) {
  static void (*const kernels[])(Arguments) = {
      reverse_kernel,     no_barrier_kernel, lonely_barrier_kernel, lonely_shuffle_kernel, barrier_or_shuffle_kernel,
      read_before_kernel, write_past_kernel, shared_past_kernel,    no_wait_kernel,        unaligned_kernel};
  for (size_t i = 0; i < faulty_kernels().size(); ++i)
    if (faulty_kernels()[i] == name) {
      Arguments arguments{from, to};
      void* pointers[] = {&arguments};
      cudaLaunchKernel(kernels[i], dim3(1), dim3(64), pointers, 64 * sizeof(float), nullptr);
    }
}

}  // namespace emulation
}  // namespace mrda
