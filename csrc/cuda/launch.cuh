// What the launchers share: the device, errors, the choice of an element type.
#pragma once

#include "element.cuh"
#include "launch.h"

namespace mrda {
namespace gpu {

inline MrdaCudaStatus status(cudaError_t error, const char* what) {
  return {int(error), what, error == cudaSuccess ? "" : cudaGetErrorString(error)};
}

// Calls work(), which returns a status, with `device` as the current one.
template <class Work>
MrdaCudaStatus on_device(int device, Work work) {
  int before = device;
  cudaError_t error = cudaGetDevice(&before);
  if (error == cudaSuccess && before != device) error = cudaSetDevice(device);
  if (error != cudaSuccess) return status(error, "cudaSetDevice");
  const MrdaCudaStatus result = work();
  if (before != device) cudaSetDevice(before);
  return result;
}

template <class Arguments>
MrdaCudaStatus launch(const char* name, void (*kernel)(Arguments), int64_t blocks, dim3 threads, int64_t shared_bytes,
                      void* stream, Arguments arguments) {
  constexpr int64_t kAlwaysThere = 48 << 10;  // a kernel has to ask for more shared memory than this
  if (blocks > INT32_MAX) return status(cudaErrorInvalidConfiguration, name);
  if (shared_bytes > kAlwaysThere) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
    if (error != cudaSuccess) return status(error, name);
  }
  void* pointers[] = {&arguments};
  const cudaError_t error = cudaLaunchKernel(kernel, dim3(unsigned(blocks)), threads, pointers, size_t(shared_bytes),
                                             static_cast<cudaStream_t>(stream));
  return status(error == cudaSuccess ? cudaPeekAtLastError() : error, name);
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
