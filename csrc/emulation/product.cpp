// SPDX-License-Identifier: Apache-2.0
#include "product.h"

#include "../cuda/instructions.cuh"

namespace mrda {
namespace emulation {
namespace {

struct Arguments {
  Product* product;
};

// a goes through shared memory.
template <int kPitch>
__global__ void product_kernel(Arguments arguments) {
  MRDA_DYNAMIC_SHARED(memory);
  Product& p = *arguments.product;
  const int lane = int(threadIdx.x), row = lane >> 2, k = (lane & 3) * 2;
  if (lane == p.absent) return;
  const auto pack = [](const float* two) {
    const __nv_bfloat16 narrow[2] = {__float2bfloat16_rn(two[0]), __float2bfloat16_rn(two[1])};
    uint32_t bits;
    memcpy(&bits, narrow, sizeof(bits));
    return bits;
  };
  const uint32_t at = gpu::shared_address(memory);
  gpu::store_matrices<kPitch>(gpu::stored_place<kPitch>(at), {pack(&p.a[row][k]), pack(&p.a[row + 8][k]),
                                                              pack(&p.a[row][k + 8]), pack(&p.a[row + 8][k + 8])});
  __syncwarp();
  uint32_t a[4];
  gpu::load_matrices(gpu::matrix_row(at, kPitch), a);
  const uint32_t b[2] = {pack(&p.b[row][k]), pack(&p.b[row][k + 8])};
  float sum[4] = {p.c[row][k], p.c[row][k + 1], p.c[row + 8][k], p.c[row + 8][k + 1]};
  if (p.half) gpu::multiply_add(__nv_bfloat16(), sum, a[0], a[1], b[0], sum);
  else gpu::multiply_add(__nv_bfloat16(), sum, a, b[0], b[1], sum);
  for (int i = 0; i < 4; ++i) p.sum[row + (i >> 1) * 8][k + (i & 1)] = sum[i];
}

}  // namespace

void run(Product& product) {
  constexpr int kPitch = 144, kPitchOfConflicts = 128;
  Arguments arguments{&product};
  void* pointers[] = {&arguments};
  cudaLaunchKernel(product.conflicts ? product_kernel<kPitchOfConflicts> : product_kernel<kPitch>, dim3(1), dim3(32),
                   pointers, 16 * kPitch, nullptr);
}

}  // namespace emulation
}  // namespace mrda
