// SPDX-License-Identifier: Apache-2.0
// Host side of a kernel launch: the current device, errors, and the choice of template arguments.
#pragma once

#include <atomic>
#include <set>
#include <type_traits>
#include <utility>

#include "element.cuh"
#include "launch.h"

// The emulation's GPU changes, so that it has to be asked every time.
#ifndef MRDA_KEEPS_ATTRIBUTES
#define MRDA_KEEPS_ATTRIBUTES true
#endif

namespace mrda {
namespace gpu {

inline MrdaCudaStatus make_status(cudaError_t error, const char* what) {
  // The runtime keeps an error until it is asked for. Clear it, otherwise the next call would report it as its own.
  if (error != cudaSuccess) cudaGetLastError();
  return {int(error), what, error == cudaSuccess ? "" : cudaGetErrorString(error)};
}

// Makes `device` the current one, calls work(), which returns a status, and restores the previous device.
template <class Work>
MrdaCudaStatus on_device(const RdaConvParams& p, int device, Work work) {
  constexpr int64_t kMaxSize = INT32_MAX - (1 << 16);  // kernels use 32-bit coordinates; leave room for the halo
  if (p.height > kMaxSize || p.width > kMaxSize)
    return {int(cudaErrorInvalidValue), "rda_conv", "height or width beyond 2^31"};
  int previous = device;
  cudaError_t error = cudaGetDevice(&previous);
  if (error != cudaSuccess) return make_status(error, "cudaGetDevice");
  if (previous != device) error = cudaSetDevice(device);
  if (error != cudaSuccess) return make_status(error, "cudaSetDevice");
  const MrdaCudaStatus result = work();
  if (previous != device) cudaSetDevice(previous);
  return result;
}

// An attribute of a device, for which CUDA is asked once. If that fails it is 1, which plans can divide by; the launch
// then reports the failure.
template <int kAttribute>
int device_attribute(int device) {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];
  const bool kept = MRDA_KEEPS_ATTRIBUTES && device < kDevices;
  int value = kept ? known[device].load(std::memory_order_relaxed) : 0;
  if (value > 0) return value;
  if (cudaDeviceGetAttribute(&value, cudaDeviceAttr(kAttribute), device) != cudaSuccess) {
    cudaGetLastError();  // or the next call would report it as its own
    return 1;
  }
  if (kept) known[device].store(value, std::memory_order_relaxed);
  return value;
}

inline int multiprocessors(int device) { return device_attribute<cudaDevAttrMultiProcessorCount>(device); }

// Blocks that a multiprocessor has shared memory for. Each takes 1 KiB beside its own bytes; a single one may have all.
inline int blocks_by_shared_memory(int device, int bytes) {
  constexpr int kReserved = 1024;
  return (device_attribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>(device) + kReserved) / (bytes + kReserved);
}

// More than 48 KiB of shared memory has to be requested for a kernel, once on each device. The setting belongs to the
// kernel, not to the launch, and other threads launch the same kernel: so request all that the device has. Each thread
// requests it by itself, so that no launch waits for a lock.
inline cudaError_t allow_shared_memory(const void* kernel, int bytes) {
  if (bytes <= 48 << 10) return cudaSuccess;
  static thread_local std::set<std::pair<const void*, int>> allowed;
  int device = 0, all = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  if (allowed.count({kernel, device})) return cudaSuccess;
  error = cudaDeviceGetAttribute(&all, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, all);
  if (error == cudaSuccess) allowed.insert({kernel, device});
  return error;
}

template <class Arguments>
MrdaCudaStatus launch(const char* name, void (*kernel)(Arguments), int64_t blocks, int threads, int shared_bytes,
                      void* stream, Arguments arguments) {
  if (blocks > INT32_MAX) return make_status(cudaErrorInvalidConfiguration, name);
  const cudaError_t error = allow_shared_memory(reinterpret_cast<const void*>(kernel), shared_bytes);
  if (error != cudaSuccess) return make_status(error, name);
  void* pointers[] = {&arguments};
  return make_status(cudaLaunchKernel(kernel, dim3(unsigned(blocks)), dim3(unsigned(threads)), pointers,
                                      size_t(shared_bytes), static_cast<cudaStream_t>(stream)),
                     name);
}

// static_switch(choice, visit) turns a run-time choice into a template argument. It calls visit with a value whose type
// says it all: a std::integral_constant, or an element of the type.
template <class Visit>
auto static_switch(bool choice, Visit visit) {
  return choice ? visit(std::true_type{}) : visit(std::false_type{});
}

template <class Visit>
auto static_switch(DType dtype, Visit visit) {
  switch (dtype) {
    case DType::kFloat64: return visit(double{});
    case DType::kBFloat16: return visit(__nv_bfloat16{});
    case DType::kFloat16: return visit(__half{});
    default: return visit(float{});
  }
}

// Kernels are compiled for K = 3, and once more for every other size, which they then read from the parameters.
constexpr int kAnyKernelSize = 0;

// Calls visit(K), a constant: 3, or kAnyKernelSize.
template <class Visit>
auto switch_kernel_size(int kernel_size, Visit visit) {
  return static_switch(kernel_size == 3, [&](auto is_3) {
    return visit(std::integral_constant<int, is_3.value ? 3 : kAnyKernelSize>{});
  });
}

// Calls visit(element, K) for a call's dtype and kernel size.
template <class Visit>
auto static_switch(const RdaConvParams& p, Visit visit) {
  return switch_kernel_size(p.kernel_size, [&](auto kernel_size) {
    return static_switch(p.dtype, [&](auto element) { return visit(element, kernel_size); });
  });
}

}  // namespace gpu
}  // namespace mrda
