// The emulation's controls: how threads take turns, memory with guarded borders, faults planted on purpose.
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
  // Planted faults; -1 for none.
  int64_t skip_barrier = -1;         // all threads run through their barrier of this number
  int64_t skip_barrier_thread = -1;  // only this thread of each block does
  int64_t drop_copy = -1;            // this asynchronous copy (of all of a run's) never arrives
};
extern Controls controls;

// What the last run found wrong: a sentence; empty for nothing.
extern std::string fault;

// A copy of `bytes` bytes that end right before a page which may not be touched, and begin after another one as
// closely as the original's alignment to 16 bytes allows. A run that touches either page stops with a sentence
// that has `name` in it.
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
