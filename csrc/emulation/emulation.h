// SPDX-License-Identifier: Apache-2.0
// Controls of the emulation: the order of threads, planted faults, and memory between guard pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace mrda {
namespace emulation {

// The order in which a block's threads are resumed between two barriers.
enum class Order { kForward, kReverse, kShuffled };

struct Controls {
  Order order = Order::kShuffled;
  uint32_t seed = 0;
  // The GPU that is emulated.
  int capability = 90;  // 80, 86, 90: how much shared memory a block may have, and if there is stmatrix
  int multiprocessors = 2;
  uint8_t fill = 0xff;  // of shared memory at first: 0xff makes a NaN of every element
  // Planted faults; -1 for none.
  int64_t skip_barrier = -1;         // threads do not wait at their barrier of this number
  int64_t skip_barrier_thread = -1;  // only this thread of each block skips it
  int64_t drop_copy = -1;            // the asynchronous copy of this number, counted over a launch, never arrives
  int64_t shift_copy = -1;           // that of this number copies what is 16 bytes further on
  int64_t wrong_lane = -1;           // in the shuffle of this number, counted over a launch, the last lane gets its own
  int64_t skip_block = -1;           // this block does not run
};
extern Controls controls;

// The accesses to shared memory by the instructions of csrc/cuda/instructions.cuh: phases, in which lanes access 128
// bytes at once, and those of them in which two lanes want different words of the same bank.
struct SharedAccesses {
  int64_t phases = 0, conflicts = 0;
};
extern SharedAccesses shared_accesses;
extern size_t most_shared_bytes;  // of a launch

// The first fault since it was last cleared, as a sentence; empty if there was none.
extern std::string fault;

// A copy of `bytes` bytes between two guard pages, with the original's alignment to 16 bytes: as far as that allows, it
// ends right before the second one. A kernel that touches a guard page is stopped, and `fault` says by how much it
// missed `name`. `from` may be null: then the memory is NaN.
class Guarded {
 public:
  Guarded(std::string name, const void* from, size_t bytes);
  ~Guarded();
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::string name_;
  unsigned char *pages_, *data_;
  size_t mapped_, bytes_;
  friend std::string describe_address(const void*);
};

}  // namespace emulation
}  // namespace mrda
