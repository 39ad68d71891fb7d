// What the launchers share: the device, errors, the choice of an element type.
#pragma once

#include "element.cuh"
#include "launch.h"

namespace mrda {
namespace gpu {

// The runtime keeps an error until it is asked for it: a failure must not be taken for the next call's.
inline MrdaCudaStatus status(cudaError_t error, const char* what) {
  if (error != cudaSuccess) cudaGetLastError();
  return {int(error), what, error == cudaSuccess ? "" : cudaGetErrorString(error)};
}

// Calls work(), which returns a status, with `device` as the current one.
template <class Work>
MrdaCudaStatus on_device(const RdaConvParams& p, int device, Work work) {
  constexpr int64_t kMost = INT32_MAX - (1 << 16);  // places in an image are 32-bit numbers, with room for borders
  if (p.height > kMost || p.width > kMost) return {int(cudaErrorInvalidValue), "rda_conv", "height or width beyond 2^31"};
  int before = device;
  cudaError_t error = cudaGetDevice(&before);
  if (error != cudaSuccess) return status(error, "cudaGetDevice");
  if (before != device) error = cudaSetDevice(device);
  if (error != cudaSuccess) return status(error, "cudaSetDevice");
  const MrdaCudaStatus result = work();
  if (before != device) cudaSetDevice(before);
  return result;
}

template <class Arguments>
MrdaCudaStatus launch(const char* name, void (*kernel)(Arguments), int64_t blocks, dim3 threads, int64_t shared_bytes,
                      void* stream, Arguments arguments) {
  // A kernel has to ask for more shared memory than the first number. It asks for all that the smallest GPU has, the
  // same each time: the setting is the kernel's, not the launch's, and other threads launch too.
  constexpr int64_t kAlwaysThere = 48 << 10, kMost = 99 << 10;
  if (blocks > INT32_MAX || shared_bytes > kMost) return status(cudaErrorInvalidConfiguration, name);
  if (shared_bytes > kAlwaysThere) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(kMost));
    if (error != cudaSuccess) return status(error, name);
  }
  void* pointers[] = {&arguments};
  return status(cudaLaunchKernel(kernel, dim3(unsigned(blocks)), threads, pointers, size_t(shared_bytes),
                                 static_cast<cudaStream_t>(stream)),
                name);
}

template <class A>
Slopes<A> slopes_of(const RdaConvParams& p) {
  return {A(p.negative_slope), A(p.output_negative_slope)};
}

// visit(T{}) with the element type of `dtype`.
template <class Visit>
auto with_element_type(DType dtype, Visit visit) {
  switch (dtype) {
    case DType::kFloat64: return visit(double{});
    case DType::kBFloat16: return visit(__nv_bfloat16{});
    case DType::kFloat16: return visit(__half{});
    default: return visit(float{});
  }
}

}  // namespace gpu
}  // namespace mrda
