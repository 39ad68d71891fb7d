// SPDX-License-Identifier: Apache-2.0
// The instructions of csrc/cuda/instructions.cuh on the CPU. A warp's lanes meet at each, as a GPU's do; so bank
// conflicts can be counted. instructions.cpp implements the functions that are no templates.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace mrda {
namespace emulation {

bool has_stmatrix();
void load_words(uint32_t at, uint32_t* words, int count);
void store_words(uint32_t at, const uint32_t* words, int count);
void move_tile(uint32_t row, uint32_t* registers, bool is_stored);

using Widen = float (*)(uint16_t bits);
// For the left half of a, or both, each with one register of b.
void multiply_add(Widen widen, float* sum, const uint32_t* a, const uint32_t* b, int halves, const float* c);

template <class T>
float widen_bits(uint16_t bits) {
  T x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return float(x);
}

}  // namespace emulation

namespace gpu {

#define MRDA_HAS_STMATRIX (mrda::emulation::has_stmatrix())

inline uint32_t shared_address(const void* at) {
  return uint32_t(static_cast<const unsigned char*>(at) - emulation::shared_memory());
}
inline void keep(unsigned&) {}
void copy_async(uint32_t to, const void* from, unsigned exists);
template <int N>
void load_words(uint32_t at, uint32_t (&words)[N]) {
  emulation::load_words(at, words, N);
}
template <int N>
void store_words(uint32_t at, const uint32_t (&words)[N]) {
  emulation::store_words(at, words, N);
}
inline void load_matrices(uint32_t row, uint32_t (&tile)[4]) { emulation::move_tile(row, tile, false); }
inline void stmatrix(uint32_t row, const uint32_t (&tile)[4]) {
  uint32_t registers[4] = {tile[0], tile[1], tile[2], tile[3]};
  emulation::move_tile(row, registers, true);
}
template <class T>
void multiply_add(T, float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const float (&c)[4]) {
  const uint32_t b[2] = {b0, b1};
  emulation::multiply_add(emulation::widen_bits<T>, sum, a, b, 2, c);
}
template <class T>
void multiply_add(T, float (&sum)[4], uint32_t a0, uint32_t a1, uint32_t b0, const float (&c)[4]) {
  const uint32_t a[2] = {a0, a1};
  emulation::multiply_add(emulation::widen_bits<T>, sum, a, &b0, 1, c);
}

}  // namespace gpu
}  // namespace mrda
