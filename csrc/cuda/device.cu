// What the CUDA runtime that is built in says of this machine.
#include "launch.cuh"

extern "C" MrdaCudaStatus mrda_cuda_versions(int* runtime, int* driver) {
  const cudaError_t error = cudaRuntimeGetVersion(runtime);
  return mrda::gpu::status(error == cudaSuccess ? cudaDriverGetVersion(driver) : error, "cudaDriverGetVersion");
}
