// SPDX-License-Identifier: Apache-2.0
// CUDA's 16-bit float types, by the CPU backend's conversions.
#pragma once

#include "../cpu/simd.h"

namespace mrda {
namespace emulation {

// `Stored` is the CPU backend's type of the same format.
template <class Stored>
struct HalfFloat {
  Stored stored;

  HalfFloat() = default;
  // Rounds to nearest, ties to even.
  explicit HalfFloat(float x) : stored() { MRDA_ISA::store_elements(&stored, 1, 1, MRDA_ISA::splat(x)); }
  explicit operator float() const { return MRDA_ISA::load_scalar(&stored); }
};

}  // namespace emulation
}  // namespace mrda
