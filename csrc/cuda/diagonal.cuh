// SPDX-License-Identifier: Apache-2.0
// A 3x3 depthwise convolution on tensor cores, 8 channels at a time: two neighbouring taps of 16 pixels side by side,
// 16 x 16, times the taps as two diagonal matrices one above the other; and the third tap of the row by itself.
#pragma once

#include "instructions.cuh"

namespace mrda {
namespace gpu {

// A lane's part of the diagonal matrices of kGroups times 8 channels, from `first` on. `weight` is (channels, 3, 3);
// channels beyond have zeros.
template <class T, int kGroups>
__device__ __forceinline__ void load_diagonals(const T* weight, int first, int channels,
                                               uint32_t (&taps)[9][kGroups]) {
  const int lane = int(threadIdx.x) & 31, row = lane >> 2, pair = lane & 3;
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    const int channel = first + group * 8 + row;
#pragma unroll
    for (int n = 0; n < 9; ++n) {
      uint16_t bits = 0;
      if (row >> 1 == pair && channel < channels)  // on the diagonal
        memcpy(&bits, weight + int64_t(channel) * 9 + n, sizeof(bits));
      taps[n][group] = uint32_t(bits) << (16 * (row & 1));
    }
  }
}

// sum = c + a row of taps. `two` has the first two taps of the pixels, `third0` and `third1` the third one.
template <class T, int kGroups>
__device__ __forceinline__ void add_tap_row(T element, float (&sum)[4], const uint32_t (&two)[4], uint32_t third0,
                                            uint32_t third1, const uint32_t (&taps)[9][kGroups], int row, int group,
                                            const float (&c)[4]) {
  multiply_add(element, sum, two, taps[row * 3][group], taps[row * 3 + 1][group], c);
  multiply_add(element, sum, third0, third1, taps[row * 3 + 2][group], sum);
}

}  // namespace gpu
}  // namespace mrda
