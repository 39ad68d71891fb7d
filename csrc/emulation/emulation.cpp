// SPDX-License-Identifier: Apache-2.0
// Runs a grid of CUDA threads on the CPU, one block after the other, each thread as a fibre with its own stack. A fibre
// runs until it has to wait at a barrier or for its warp. The order in which fibres are resumed changes from pass to
// pass, which exposes code that relies on an order without waiting for it. Shared memory starts as NaN, or as asked for,
// and lies between guard pages. If threads deadlock, or touch a guard page, the launch stops and reports it.
#include "emulation.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <new>
#include <random>

#include "cuda_runtime.h"

namespace mrda {
namespace emulation {

dim3 thread_index, block_index, block_size, grid_size;
Controls controls;
SharedAccesses shared_accesses;
size_t most_shared_bytes;
std::string fault;

namespace {

constexpr size_t kStackBytes = 512 << 10;

enum class State { kReady, kAtBarrier, kWithWarp, kDone };

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Fibre {
  jmp_buf context;
  std::unique_ptr<unsigned char[]> stack;
  bool started = false;
  State state = State::kDone;
  int64_t barriers = 0;
  uint32_t warp_mask = 0;  // this and the next two: of with_warp
  WarpFunction warp_function = nullptr;
  void* given = nullptr;
  std::vector<std::vector<Copy>> copies;  // in flight, by group; the last group is still open
};

std::vector<std::unique_ptr<Fibre>> fibres;
jmp_buf scheduler;
sigjmp_buf after_signal;  // where a signal handler jumps to
volatile sig_atomic_t is_running = 0;
const void* volatile signal_address;
Fibre* current;
void (*body)(const void*);
const void* argument;
Guarded* block_memory;
int64_t copy_count, shuffle_count;
std::vector<const Guarded*> guarded;

void report(const std::string& what) {
  if (fault.empty()) fault = what;
}

std::string thread_name(unsigned thread) {
  return "thread " + std::to_string(thread) + " of block " + std::to_string(block_index.x);
}

void switch_to_scheduler() {
  if (_setjmp(current->context) == 0) _longjmp(scheduler, 1);
}

// A fibre outlives its thread: it runs the thread of the same number in the next block.
void fibre_main() {
  for (;;) {
    body(argument);
    current->state = State::kDone;
    switch_to_scheduler();
  }
}

void resume(Fibre& fibre, unsigned thread) {
  current = &fibre;
  thread_index = dim3(thread, 0, 0);
  if (_setjmp(scheduler) != 0) return;
  if (fibre.started) _longjmp(fibre.context, 1);
  fibre.started = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fibre.stack.get();
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, fibre_main, 0);
  setcontext(&context);
}

void start_threads(unsigned threads) {
  while (fibres.size() < threads) {
    fibres.push_back(std::make_unique<Fibre>());
    fibres.back()->stack.reset(new unsigned char[kStackBytes]);
  }
  for (unsigned t = 0; t < threads; ++t) {
    Fibre& f = *fibres[t];
    f.state = State::kReady;
    f.barriers = 0;
    f.copies.assign(1, {});
  }
}

// Makes the threads ready that wait at a barrier, if all do. Returns true if so.
bool release_barrier(unsigned threads) {
  unsigned waiting = 0, done = 0;
  for (unsigned t = 0; t < threads; ++t) {
    waiting += fibres[t]->state == State::kAtBarrier;
    done += fibres[t]->state == State::kDone;
  }
  if (waiting == threads) {
    for (unsigned t = 0; t < threads; ++t) fibres[t]->state = State::kReady;
    return true;
  }
  if (waiting && waiting + done == threads) {
    unsigned t = 0;
    while (fibres[t]->state != State::kDone) ++t;
    report(thread_name(t) + " has ended while others wait for it at a barrier");
  }
  return false;
}

// Makes the threads of a warp ready that wait for each other, if all have come. Returns true if so.
bool release_warp(unsigned warp) {
  unsigned first = warp;
  while (first < warp + 32 && fibres[first]->state != State::kWithWarp) ++first;
  if (first == warp + 32) return false;
  const uint32_t mask = fibres[first]->warp_mask;
  const WarpFunction function = fibres[first]->warp_function;
  void* given[32] = {};
  for (unsigned lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) {
      const Fibre& f = *fibres[warp + lane];
      if (f.state != State::kWithWarp || f.warp_mask != mask || f.warp_function != function) return false;
      given[lane] = f.given;
    }
  thread_index = dim3(first, 0, 0);
  function(given);
  for (unsigned lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) fibres[warp + lane]->state = State::kReady;
  return true;
}

// Runs a warp until it waits for others. Returns true if it has run at all.
bool run_warp(unsigned warp, unsigned first_lane) {
  bool runs = false;
  do {
    for (unsigned lane = 0; lane < 32; ++lane) {
      const unsigned t = warp + (lane ^ first_lane);
      if (fibres[t]->state == State::kReady) {
        resume(*fibres[t], t);
        runs = true;
      }
    }
  } while (fault.empty() && release_warp(warp));
  return runs;
}

void run_block(unsigned threads, std::mt19937& random) {
  start_threads(threads);
  // A warp runs as far as it can before the next one does: so a barrier that is missing leaves it far ahead.
  std::vector<unsigned> warps(threads / 32);
  for (unsigned w = 0; w < warps.size(); ++w) warps[w] = w * 32;
  if (controls.order == Order::kReverse) std::reverse(warps.begin(), warps.end());
  for (;;) {
    const bool shuffled = controls.order == Order::kShuffled;
    if (shuffled) std::shuffle(warps.begin(), warps.end(), random);
    bool progress = false;
    for (unsigned warp : warps)
      progress = run_warp(warp, shuffled ? random() % 32 : controls.order == Order::kReverse ? 31 : 0) || progress;
    bool done = true;
    for (unsigned t = 0; t < threads && done; ++t) done = fibres[t]->state == State::kDone;
    if (done || !fault.empty()) return;
    if (!release_barrier(threads) && !progress) {
      for (unsigned t = 0; t < threads; ++t)
        if (fibres[t]->state == State::kWithWarp) report(thread_name(t) + " waits for lanes that do not come");
      report("the threads of block " + std::to_string(block_index.x) + " wait for each other at different places");
    }
    if (!fault.empty()) return;
  }
}

void on_signal(int signal, siginfo_t* info, void*) {
  if (!is_running) {  // not caused by a kernel
    ::signal(signal, SIG_DFL);
    raise(signal);
    return;
  }
  signal_address = info->si_addr;
  siglongjmp(after_signal, 1);
}

}  // namespace

std::string describe_address(const void* address) {
  const unsigned char* at = static_cast<const unsigned char*>(address);
  for (const Guarded* g : guarded)
    if (at >= g->pages_ && at < g->pages_ + g->mapped_)
      return std::to_string(at < g->data_ ? g->data_ - at : at - g->data_ - ptrdiff_t(g->bytes_) + 1) + " bytes " +
             (at < g->data_ ? "before " : "past the end of ") + g->name_;
  return "an address that belongs to no buffer";
}

Guarded::Guarded(std::string name, const void* from, size_t bytes) : name_(std::move(name)), bytes_(bytes) {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  const size_t inner = (bytes + 16 + page - 1) / page * page;
  mapped_ = inner + 2 * page;
  void* pages = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  pages_ = static_cast<unsigned char*>(pages);
  mprotect(pages_ + page, inner, PROT_READ | PROT_WRITE);
  memset(pages_ + page, 0xff, inner);  // a NaN in every element type
  data_ = pages_ + page + inner - bytes;
  data_ -= (reinterpret_cast<uintptr_t>(data_) - reinterpret_cast<uintptr_t>(from)) % 16;
  if (from && bytes) memcpy(data_, from, bytes);
  guarded.push_back(this);
}

Guarded::~Guarded() {
  munmap(pages_, mapped_);
  guarded.erase(std::find(guarded.begin(), guarded.end(), this));
}

unsigned char* shared_memory() { return static_cast<unsigned char*>(block_memory->data()); }

void barrier() {
  const bool skips = current->barriers++ == controls.skip_barrier &&
                     (controls.skip_barrier_thread < 0 || controls.skip_barrier_thread == int64_t(thread_index.x));
  if (skips) return;
  current->state = State::kAtBarrier;
  switch_to_scheduler();
}

void with_warp(uint32_t mask, WarpFunction function, void* given) {
  current->warp_mask = mask;
  current->warp_function = function;
  current->given = given;
  current->state = State::kWithWarp;
  switch_to_scheduler();
}

uint64_t shuffle(uint32_t mask, uint64_t value, int source_lane) {
  struct Exchange {
    uint64_t value, result;
    int source;
    unsigned thread;
  } exchange{value, 0, source_lane, thread_index.x};
  with_warp(
      mask,
      [](void* const* lanes) {
        for (int lane = 0; lane < 32; ++lane)
          if (lanes[lane]) {
            Exchange& mine = *static_cast<Exchange*>(lanes[lane]);
            const bool exists = mine.source >= 0 && mine.source < 32 && lanes[mine.source];
            if (exists) mine.result = static_cast<Exchange*>(lanes[mine.source])->value;
            else report(thread_name(mine.thread) + " shuffles with a lane that takes no part");
          }
        if (shuffle_count++ == controls.wrong_lane && lanes[31])
          static_cast<Exchange*>(lanes[31])->result = static_cast<Exchange*>(lanes[31])->value;
      },
      &exchange);
  return exchange.result;
}

void check_aligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes)
    report(thread_name(thread_index.x) + " accesses " + std::to_string(bytes) + " bytes at an unaligned address");
}

void copy_async(void* to, const void* from, size_t bytes) {
  check_aligned(to, bytes);
  check_aligned(from, bytes);
  const int64_t number = copy_count++;
  if (number == controls.shift_copy) from = static_cast<const unsigned char*>(from) + 16;
  if (number != controls.drop_copy) current->copies.back().push_back({to, from, bytes});
}

void commit() { current->copies.emplace_back(); }

int multiprocessors() { return controls.multiprocessors; }
int shared_bytes_per_block() { return (controls.capability >= 90 ? 227 : controls.capability == 80 ? 163 : 99) << 10; }

void wait_prior(size_t groups) {
  auto& copies = current->copies;
  while (copies.size() > groups + 1) {  // the open group does not count
    for (const Copy& c : copies.front()) memcpy(c.to, c.from, c.bytes);
    copies.erase(copies.begin());
  }
}

int run(void (*kernel)(const void*), const void* kernel_argument, dim3 grid, dim3 block, size_t shared_bytes) {
  if (!fault.empty()) return cudaErrorLaunchFailure;  // as on a GPU, nothing runs after a kernel that failed
  if (block.x > 1024 || block.x % 32 || block.y * block.z != 1 || grid.y * grid.z != 1 || grid.x == 0 || block.x == 0 ||
      int64_t(shared_bytes) > shared_bytes_per_block())
    return cudaErrorInvalidConfiguration;
  struct sigaction action {}, old_segv, old_bus;
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &action, &old_segv);
  sigaction(SIGBUS, &action, &old_bus);

  body = kernel;
  argument = kernel_argument;
  block_size = block;
  grid_size = grid;
  copy_count = shuffle_count = 0;
  most_shared_bytes = std::max(most_shared_bytes, shared_bytes);
  std::mt19937 random(controls.seed);
  for (unsigned b = 0; b < grid.x && fault.empty(); ++b) {
    if (int64_t(b) == controls.skip_block) continue;
    block_index = dim3(b, 0, 0);
    Guarded memory("shared memory", nullptr, shared_bytes);
    memset(memory.data(), controls.fill, shared_bytes);
    block_memory = &memory;
    is_running = 1;
    if (sigsetjmp(after_signal, 1) == 0) run_block(block.x, random);
    else report(thread_name(thread_index.x) + " reads or writes " + describe_address(signal_address));
    is_running = 0;
  }
  if (!fault.empty()) fibres.clear();  // some are still in the middle of a kernel
  sigaction(SIGSEGV, &old_segv, nullptr);
  sigaction(SIGBUS, &old_bus, nullptr);
  return fault.empty() ? int(cudaSuccess) : int(cudaErrorLaunchFailure);
}

}  // namespace emulation
}  // namespace mrda

bool __any_sync(uint32_t mask, bool predicate) {
  struct Vote {
    bool mine, any;
  } vote{predicate, false};
  mrda::emulation::with_warp(
      mask,
      [](void* const* lanes) {
        bool any = false;
        for (int lane = 0; lane < 32; ++lane) any = any || (lanes[lane] && static_cast<Vote*>(lanes[lane])->mine);
        for (int lane = 0; lane < 32; ++lane)
          if (lanes[lane]) static_cast<Vote*>(lanes[lane])->any = any;
      },
      &vote);
  return vote.any;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    default: return mrda::emulation::fault.c_str();
  }
}
