// SPDX-License-Identifier: Apache-2.0
#include <instructions.h>

#include <cmath>
#include <cstring>

#include "emulation.h"

namespace mrda {
namespace emulation {
namespace {

constexpr uint32_t kAllLanes = 0xffffffffu;

unsigned char* shared_at(uint32_t at) { return shared_memory() + at; }

// An access of a warp to shared memory. `at` is where a lane's `bytes` bytes are.
struct Access {
  uint32_t at;
  int bytes;
};

// Counts the phases of an access: 128 bytes each, so 8, 16 or 32 lanes.
void count_phases(void* const* lanes) {
  const int together = 128 / static_cast<Access*>(lanes[0])->bytes;
  for (int first = 0; first < 32; first += together) {
    int64_t word_in_bank[32];
    std::fill(word_in_bank, word_in_bank + 32, -1);
    bool conflict = false;
    for (int lane = first; lane < first + together; ++lane) {
      const Access& access = *static_cast<Access*>(lanes[lane]);
      for (uint32_t word = access.at / 4; word < (access.at + access.bytes) / 4; ++word) {
        int64_t& other = word_in_bank[word % 32];
        conflict = conflict || (other >= 0 && other != word);
        other = word;
      }
    }
    ++shared_accesses.phases;
    shared_accesses.conflicts += conflict;
  }
}

void access(uint32_t at, int bytes) {
  check_aligned(shared_at(at), size_t(bytes));
  Access mine{at, bytes};
  with_warp(kAllLanes, count_phases, &mine);
}

// The power of two that is the last of 24 binary places of numbers as large as x.
double last_place(double x) {
  int exponent;
  std::frexp(x, &exponent);
  return std::ldexp(1.0, std::max(exponent - 24, -149));
}
double truncated(double x, double unit) { return std::trunc(x / unit) * unit; }

// c and the products of 8 numbers each, added up as tensor cores do it: the terms are cut off at the last place of the
// largest one, and the sum at its own. Newer ones keep a bit or two more of the terms.
float sum_of_products(const float* a, const float* b, float c) {
  double terms[9] = {c}, largest = std::fabs(c), sum = 0;
  for (int k = 0; k < 8; ++k) {
    terms[k + 1] = double(a[k]) * double(b[k]);
    if (!(std::fabs(terms[k + 1]) <= largest)) largest = std::fabs(terms[k + 1]);
  }
  const bool finite = std::isfinite(largest);
  const double unit = finite ? last_place(largest) : 0;
  for (double term : terms)
    if (term != 0) sum += finite ? truncated(term, unit) : term;
  return float(std::isfinite(sum) ? truncated(sum, last_place(sum)) : sum);
}

struct MatrixProduct {
  Widen widen;
  float* sum;
  const uint32_t *a, *b;
  int halves;
  const float* c;
};

void multiply(void* const* lanes) {
  float a[2][16][8], b[2][8][8];  // by halves, [row][k] and [column][k]
  for (int lane = 0; lane < 32; ++lane) {
    const MatrixProduct& mine = *static_cast<MatrixProduct*>(lanes[lane]);
    const int row = lane >> 2, k = (lane & 3) * 2;
    for (int half = 0; half < mine.halves; ++half)
      for (int i = 0; i < 2; ++i) {
        a[half][row][k + i] = mine.widen(uint16_t(mine.a[2 * half] >> (16 * i)));
        a[half][row + 8][k + i] = mine.widen(uint16_t(mine.a[2 * half + 1] >> (16 * i)));
        b[half][row][k + i] = mine.widen(uint16_t(mine.b[half] >> (16 * i)));
      }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const MatrixProduct& mine = *static_cast<MatrixProduct*>(lanes[lane]);
    for (int i = 0; i < 4; ++i) {
      const int row = (lane >> 2) + (i >> 1) * 8, column = (lane & 3) * 2 + (i & 1);
      float sum = mine.c[i];
      for (int half = 0; half < mine.halves; ++half) sum = sum_of_products(a[half][row], b[half][column], sum);
      mine.sum[i] = sum;
    }
  }
}

struct Tile {
  uint32_t row;
  uint32_t* registers;
  bool is_stored;
};

void move(void* const* lanes) {
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const Tile& mine = *static_cast<Tile*>(lanes[lane]);
      unsigned char* const at = shared_at(static_cast<Tile*>(lanes[i * 8 + (lane >> 2)])->row) + (lane & 3) * 4;
      if (mine.is_stored) memcpy(at, &mine.registers[i], 4);
      else memcpy(&mine.registers[i], at, 4);
    }
}

}  // namespace

bool has_stmatrix() { return controls.capability >= 90; }

void load_words(uint32_t at, uint32_t* words, int count) {
  access(at, count * 4);
  memcpy(words, shared_at(at), size_t(count) * 4);
}

void store_words(uint32_t at, const uint32_t* words, int count) {
  access(at, count * 4);
  memcpy(shared_at(at), words, size_t(count) * 4);
}

void multiply_add(Widen widen, float* sum, const uint32_t* a, const uint32_t* b, int halves, const float* c) {
  MatrixProduct mine{widen, sum, a, b, halves, c};
  with_warp(kAllLanes, multiply, &mine);
}

void move_tile(uint32_t row, uint32_t* registers, bool is_stored) {
  access(row, 16);
  Tile mine{row, registers, is_stored};
  with_warp(kAllLanes, move, &mine);
}

}  // namespace emulation

namespace gpu {

void copy_async(uint32_t to, const void* from, unsigned exists) {
  static const unsigned char zeros[16] = {};
  emulation::copy_async(emulation::shared_memory() + to, exists ? from : zeros, 16);
}

}  // namespace gpu
}  // namespace mrda
