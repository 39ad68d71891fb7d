// SPDX-License-Identifier: Apache-2.0
// Instructions that CUDA C++ has no function for, or none that takes an address in shared memory as 32 bits: so taken,
// a loop's accesses differ by constants in the instructions. The emulation has its own, with the same signatures; it
// counts bank conflicts.
//
// Matrices are 8 x 8 elements of 16 bits, a row being 16 bytes. Four of them at a time make a tile of 16 rows by 32
// bytes: upper left, lower left, upper right, lower right. Of each, lane l has the elements 2 * (l % 4) and the next
// one of row l / 4, in one register. A tile so distributed is the first factor of multiply_add, and so are two of its
// sums side by side, narrowed.
#pragma once

#include "element.cuh"

#if !defined(__CUDACC__)
#include <instructions.h>  // in csrc/emulation
#else

namespace mrda {
namespace gpu {

// stmatrix came with sm_90.
#if defined(__CUDA_ARCH__)
#define MRDA_HAS_STMATRIX (__CUDA_ARCH__ >= 900)
#else
#define MRDA_HAS_STMATRIX false
#endif

// An address in shared memory.
__device__ __forceinline__ uint32_t shared_address(const void* at) { return uint32_t(__cvta_generic_to_shared(at)); }

// Keeps a value in a register: the compiler would compute it again in each pass of a loop.
__device__ __forceinline__ void keep(unsigned& value) { asm volatile("" : "+r"(value)); }

// Copies 16 bytes from global to shared memory, or writes zeros there if `exists` is 0; `from` is not read then. The
// copy has arrived after __pipeline_commit, __pipeline_wait_prior and a barrier.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, unsigned exists) {
  asm volatile(
      "{\n"
      ".reg .pred missing;\n"
      "setp.eq.u32 missing, %2, 0;\n"
      "cp.async.cg.shared.global [%0], [%1], 16, missing;\n"
      "}" ::"r"(to), "l"(from), "r"(exists));
}

// 16 or 8 bytes from shared memory.
__device__ __forceinline__ void load_words(uint32_t at, uint32_t (&words)[4]) {
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(at));
}
__device__ __forceinline__ void load_words(uint32_t at, uint32_t (&words)[2]) {
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(words[0]), "=r"(words[1]) : "r"(at));
}
__device__ __forceinline__ void store_words(uint32_t at, const uint32_t (&words)[4]) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(words[0]), "r"(words[1]), "r"(words[2]),
               "r"(words[3])
               : "memory");
}
__device__ __forceinline__ void store_words(uint32_t at, const uint32_t (&words)[1]) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(words[0]) : "memory");
}

// Loads a tile. Lane l gives the address of the 16 bytes of row l % 16 in the tile's left (l < 16) or right half.
__device__ __forceinline__ void load_matrices(uint32_t row, uint32_t (&tile)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(tile[0]), "=r"(tile[1]), "=r"(tile[2]), "=r"(tile[3])
               : "r"(row));
}

// Stores a tile, with stmatrix: use store_matrices of below.
__device__ __forceinline__ void stmatrix(uint32_t row, const uint32_t (&tile)[4]) {
#if MRDA_HAS_STMATRIX
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(row), "r"(tile[0]), "r"(tile[1]),
               "r"(tile[2]), "r"(tile[3])
               : "memory");
#endif
}

// sum = a * b + c for tiles: a is 16 x 16, b 16 x 8, c and sum 16 x 8. Of c and sum, lane l has the columns
// 2 * (l % 4) and the next one of row l / 4, and of row l / 4 + 8. b is distributed as the transpose of a's upper half.
// Tensor cores round towards zero, both the terms, to the largest one's last place, and their sum.
__device__ __forceinline__ void multiply_add(__nv_bfloat16, float (&sum)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1, const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=f"(sum[0]), "=f"(sum[1]), "=f"(sum[2]), "=f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
__device__ __forceinline__ void multiply_add(__half, float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                             const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=f"(sum[0]), "=f"(sum[1]), "=f"(sum[2]), "=f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
// The same for the left half of a, and the upper half of b.
__device__ __forceinline__ void multiply_add(__nv_bfloat16, float (&sum)[4], uint32_t a0, uint32_t a1, uint32_t b0,
                                             const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
      : "=f"(sum[0]), "=f"(sum[1]), "=f"(sum[2]), "=f"(sum[3])
      : "r"(a0), "r"(a1), "r"(b0), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
__device__ __forceinline__ void multiply_add(__half, float (&sum)[4], uint32_t a0, uint32_t a1, uint32_t b0,
                                             const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
      : "=f"(sum[0]), "=f"(sum[1]), "=f"(sum[2]), "=f"(sum[3])
      : "r"(a0), "r"(a1), "r"(b0), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

}  // namespace gpu
}  // namespace mrda

#endif

namespace mrda {
namespace gpu {

// The address that a lane gives load_matrices for a tile at `at`, whose rows are `pitch` bytes apart. A pitch of 16
// bytes more or less than a multiple of 128 keeps the rows of a matrix in different banks.
__device__ __forceinline__ uint32_t matrix_row(uint32_t at, int pitch) {
  const int lane = int(threadIdx.x) & 31;
  return at + uint32_t((lane & 15) * pitch + (lane >> 4) * 16);
}

// The address that a lane gives load_matrices for two second factors of multiply_add, 8 columns each, one below the
// other at `at`: each takes two registers side by side.
__device__ __forceinline__ uint32_t factor_row(uint32_t at, int pitch) {
  const int lane = int(threadIdx.x) & 31;
  return at + uint32_t(((lane >> 4) * 8 + (lane & 7)) * pitch + (lane >> 3 & 1) * 16);
}

// The address that a lane gives store_matrices for a tile at `at`.
template <int kPitch>
__device__ __forceinline__ uint32_t stored_place(uint32_t at) {
  if (MRDA_HAS_STMATRIX) return matrix_row(at, kPitch);
  const int lane = int(threadIdx.x) & 31;
  return at + uint32_t((lane >> 2) * kPitch + (lane & 3) * 4);
}

// Stores a tile whose rows are kPitch bytes apart.
template <int kPitch>
__device__ __forceinline__ void store_matrices(uint32_t place, const uint32_t (&tile)[4]) {
  if (MRDA_HAS_STMATRIX) {
    stmatrix(place, tile);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t word[1] = {tile[i]};
      store_words(place + (i & 1) * 8 * kPitch + (i >> 1) * 16, word);
    }
  }
}

}  // namespace gpu
}  // namespace mrda
