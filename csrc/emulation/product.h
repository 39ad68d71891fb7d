// SPDX-License-Identifier: Apache-2.0
// A product of two matrices by one warp, to test the instructions of csrc/cuda/instructions.cuh.
#pragma once

namespace mrda {
namespace emulation {

struct Product {
  float a[16][16], b[8][16], c[16][8];  // [row][k], [column][k], [row][column]; a and b are rounded to bfloat16
  float sum[16][8];                     // a * b + c
  bool half;                            // only of the first 8 k
  bool conflicts;                       // a lies in shared memory so that its rows are in the same banks
  int absent;                           // this lane does not take part; -1 for none
};

void run(Product& product);

}  // namespace emulation
}  // namespace mrda
