// SPDX-License-Identifier: Apache-2.0
// Runs a grid of CUDA threads on the CPU, one block after the other, each thread as a fibre with its own stack. A fibre
// runs until it has to wait at a barrier or for its warp. The order in which fibres are resumed changes from pass to
// pass, which exposes code that relies on an order without waiting for it. Shared memory starts as NaN and lies between
// guard pages. If threads deadlock, or touch a guard page, the launch stops and reports it.
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
std::string fault;

namespace {

constexpr size_t kStackBytes = 64 << 10;

enum class State { kReady, kAtBarrier, kInShuffle, kDone };

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
  uint32_t shuffle_mask = 0;
  uint64_t shuffle_value = 0, shuffle_result = 0;
  int shuffle_source = 0;
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
int64_t copy_count;
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

// Makes threads ready whose wait is over. Returns true if there were any.
bool wake(unsigned threads) {
  unsigned waiting = 0, done = 0;
  for (unsigned t = 0; t < threads; ++t) {
    waiting += fibres[t]->state == State::kAtBarrier;
    done += fibres[t]->state == State::kDone;
  }
  bool released = false;
  if (waiting == threads) {
    for (unsigned t = 0; t < threads; ++t) fibres[t]->state = State::kReady;
    return true;
  }
  if (waiting && waiting + done == threads) {
    unsigned t = 0;
    while (fibres[t]->state != State::kDone) ++t;
    report(thread_name(t) + " has ended while others wait for it at a barrier");
    return false;
  }
  for (unsigned warp = 0; warp < threads; warp += 32) {
    const uint32_t mask = [&] {
      for (unsigned lane = 0; lane < 32 && warp + lane < threads; ++lane)
        if (fibres[warp + lane]->state == State::kInShuffle) return fibres[warp + lane]->shuffle_mask;
      return 0u;
    }();
    bool all = mask != 0;
    for (unsigned lane = 0; lane < 32; ++lane)
      if (mask >> lane & 1) {
        const Fibre* f = warp + lane < threads ? fibres[warp + lane].get() : nullptr;
        all = all && f && f->state == State::kInShuffle && f->shuffle_mask == mask;
      }
    if (!all) continue;
    for (unsigned lane = 0; lane < 32; ++lane)
      if (mask >> lane & 1) {
        Fibre& f = *fibres[warp + lane];
        if (!(mask >> f.shuffle_source & 1))
          report(thread_name(warp + lane) + " shuffles with a lane that takes no part");
        f.shuffle_result = fibres[warp + (f.shuffle_source & 31)]->shuffle_value;
      }
    for (unsigned lane = 0; lane < 32; ++lane)
      if (mask >> lane & 1) fibres[warp + lane]->state = State::kReady;
    released = true;
  }
  return released;
}

void run_block(unsigned threads, std::mt19937& random) {
  start_threads(threads);
  std::vector<unsigned> order(threads);
  for (unsigned t = 0; t < threads; ++t) order[t] = controls.order == Order::kReverse ? threads - 1 - t : t;
  for (;;) {
    // Shuffle the warps, and start each at a random lane. A warp's lanes stay next to each other: they often wait for
    // each other, so that this takes fewer passes.
    if (controls.order == Order::kShuffled) {
      std::vector<unsigned> warps((threads + 31) / 32);
      for (unsigned w = 0; w < warps.size(); ++w) warps[w] = w;
      std::shuffle(warps.begin(), warps.end(), random);
      order.clear();
      for (unsigned w : warps)
        for (unsigned lane = 0, turn = random() % 32; lane < 32; ++lane)
          if (w * 32 + (lane ^ turn) < threads) order.push_back(w * 32 + (lane ^ turn));
    }
    bool progress = false;
    for (unsigned t : order)
      if (fibres[t]->state == State::kReady) {
        resume(*fibres[t], t);
        progress = true;
      }
    bool done = true;
    for (unsigned t = 0; t < threads && done; ++t) done = fibres[t]->state == State::kDone;
    if (done || !fault.empty()) return;
    if (!wake(threads) && !progress) {
      for (unsigned t = 0; t < threads; ++t)
        if (fibres[t]->state == State::kInShuffle) report(thread_name(t) + " shuffles with lanes that do not come");
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

uint64_t shuffle(uint32_t mask, uint64_t value, int source_lane) {
  current->shuffle_mask = mask;
  current->shuffle_value = value;
  current->shuffle_source = source_lane;
  current->state = State::kInShuffle;
  switch_to_scheduler();
  return current->shuffle_result;
}

void check_aligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes)
    report(thread_name(thread_index.x) + " accesses " + std::to_string(bytes) + " bytes at an unaligned address");
}

void copy_async(void* to, const void* from, size_t bytes) {
  check_aligned(to, bytes);
  check_aligned(from, bytes);
  if (copy_count++ != controls.drop_copy) current->copies.back().push_back({to, from, bytes});
}

void commit() { current->copies.emplace_back(); }

void wait_prior(size_t groups) {
  auto& copies = current->copies;
  while (copies.size() > groups + 1) {  // the open group does not count
    for (const Copy& c : copies.front()) memcpy(c.to, c.from, c.bytes);
    copies.erase(copies.begin());
  }
}

int run(void (*kernel)(const void*), const void* kernel_argument, dim3 grid, dim3 block, size_t shared_bytes) {
  if (!fault.empty()) return cudaErrorLaunchFailure;  // as on a GPU, nothing runs after a kernel that failed
  constexpr size_t kMaxShared = 99 << 10;             // on sm_86, the smallest GPU that the kernels are built for
  if (block.x > 1024 || block.x % 32 || block.y * block.z != 1 || grid.y * grid.z != 1 || grid.x == 0 || block.x == 0 ||
      shared_bytes > kMaxShared)
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
  copy_count = 0;
  std::mt19937 random(controls.seed);
  for (unsigned b = 0; b < grid.x && fault.empty(); ++b) {
    block_index = dim3(b, 0, 0);
    Guarded memory("shared memory", nullptr, shared_bytes);
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

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    default: return mrda::emulation::fault.c_str();
  }
}
