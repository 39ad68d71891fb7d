// SPDX-License-Identifier: Apache-2.0
#include "launch.h"

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>

#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.h"

namespace mrda {

#if defined(MRDA_HAS_x86_64_amx)
MRDA_DECLARE_KERNELS(x86_64_amx)
#endif
#if defined(MRDA_HAS_x86_64_v4)
MRDA_DECLARE_KERNELS(x86_64_v4)
#endif
#if defined(MRDA_HAS_x86_64_v3)
MRDA_DECLARE_KERNELS(x86_64_v3)
#endif
MRDA_DECLARE_KERNELS(baseline)

namespace cpu {
namespace {

#define MRDA_KERNELS(isa) \
  Kernels { #isa, isa::plan_forward, isa::forward, isa::plan_backward, isa::backward, isa::reduce, isa::plan_conv3x3, \
           isa::conv3x3, isa::plan_conv3x3_weight_gradient, isa::conv3x3_weight_gradient, \
           isa::finish_conv3x3_weight_gradient, false }

#if defined(MRDA_HAS_x86_64_amx)
// True if the processor has the matrix unit, and Linux lets this process use its registers.
bool has_amx() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // of asm/prctl.h, which is newer than many systems
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

std::vector<Kernels> runnable() {
  std::vector<Kernels> found;
#if defined(MRDA_HAS_x86_64_v3)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                  __builtin_cpu_supports("bmi2");
#if defined(MRDA_HAS_x86_64_v4)
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
#if defined(MRDA_HAS_x86_64_amx)
  if (v4 && has_amx()) {  // the 3x3 convolution is all that gains by it
    Kernels kernels = MRDA_KERNELS(x86_64_v4);
    kernels.name = "x86_64_amx";
    kernels.plan_conv3x3 = x86_64_amx::plan_conv3x3;
    kernels.conv3x3 = x86_64_amx::conv3x3;
    kernels.has_bfloat16_tiles = true;
    found.push_back(kernels);
  }
#endif
  if (v4) found.push_back(MRDA_KERNELS(x86_64_v4));
#endif
  if (v3) found.push_back(MRDA_KERNELS(x86_64_v3));
#endif
  found.push_back(MRDA_KERNELS(baseline));
  return found;
}

const std::vector<Kernels>& all_kernels() {
  static const std::vector<Kernels> kernels = runnable();
  return kernels;
}

std::atomic<size_t> chosen{0};
std::atomic<GompParallel> gomp_parallel{nullptr};

// Memory that a thread keeps between calls: fresh pages would cost more than the work done in them.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  void* get(int64_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = 0;
      data_ = std::aligned_alloc(64, size_t((bytes + 63) / 64 * 64));
      if (data_) size_ = bytes;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  int64_t size_ = 0;
};

template <class Work>
struct Team {
  const Work& work;
  int64_t tasks, scratch_bytes;
  std::atomic<int64_t> next{0};
  std::atomic<bool> out_of_memory{false};

  void run() {
    thread_local Scratch scratch;
    void* memory = scratch.get(scratch_bytes);
    if (!memory) {
      out_of_memory = true;
      return;
    }
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) work(task, memory);
  }
  static void enter(void* self) { static_cast<Team*>(self)->run(); }
};

// Runs work(task, scratch) for every task. Threads take tasks in any order: no result depends on it.
template <class Work>
void share(int64_t tasks, int64_t scratch_bytes, int threads, const Work& work) {
  Team<Work> team{work, tasks, scratch_bytes};
  const GompParallel parallel = gomp_parallel.load();
  if (threads > tasks) threads = int(tasks);
  if (parallel && threads > 1) parallel(&Team<Work>::enter, &team, unsigned(threads), 0);
  else team.run();
  if (team.out_of_memory) throw std::bad_alloc();
}

// Runs work(task, scratch, partial) for every task of a plan, then finish(partial) on the sums of all.
template <class Work, class Finish>
void share_sums(const Plan& plan, int threads, const Work& work, const Finish& finish) {
  const size_t bytes = size_t(plan.tasks * plan.partial_bytes + 64) / 64 * 64;
  std::unique_ptr<void, void (*)(void*)> partial(std::aligned_alloc(64, bytes), std::free);
  if (!partial) throw std::bad_alloc();
  share(plan.tasks, plan.scratch_bytes, threads, [&](int64_t task, void* scratch) {
    work(task, scratch, static_cast<char*>(partial.get()) + task * plan.partial_bytes);
  });
  finish(partial.get());
}

// Asks for large pages for a large result: it is fresh memory, whose page faults would cost several times the writing.
// This is only a hint; existing contents stay.
void prefer_large_pages(const RdaConvParams& p, int64_t channels, const View& view) {
#if defined(__linux__)
  const uintptr_t size = p.dtype == DType::kFloat64 ? 8 : p.dtype == DType::kFloat32 ? 4 : 2;
  const uintptr_t bytes = uintptr_t(p.batch * channels * p.height * p.width) * size;  // results are dense
  if (!view.data || bytes < (8u << 20)) return;
  const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
  const uintptr_t first = (reinterpret_cast<uintptr_t>(view.data) + page - 1) / page * page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(view.data) + bytes) / page * page;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)p, (void)channels, (void)view;
#endif
}

const Kernels& kernels() { return all_kernels()[chosen.load()]; }

}  // namespace

void rda_conv_forward(const RdaConvForward& params, int threads) {
  const Kernels& k = kernels();
  const Plan plan = k.plan_forward(params);
  prefer_large_pages(params, params.channels, params.output);
  share(plan.tasks, plan.scratch_bytes, threads,
        [&](int64_t task, void* scratch) { k.forward(params, task, scratch); });
}

void rda_conv_backward(const RdaConvBackward& params, int threads) {
  const Kernels& k = kernels();
  const Plan plan = k.plan_backward(params);
  prefer_large_pages(params, params.channels, params.grad_input);
  share_sums(plan, threads, [&](int64_t task, void* scratch, void* partial) { k.backward(params, task, scratch, partial); },
             [&](const void* partial) { k.reduce(params, partial); });
}

void rda_conv3x3_forward(const RdaConv3x3Forward& params, int threads) {
  const Kernels& k = kernels();
  const Plan plan = k.plan_conv3x3(params);
  prefer_large_pages(params, params.out_channels, params.output);
  share(plan.tasks, plan.scratch_bytes, threads,
        [&](int64_t task, void* scratch) { k.conv3x3(params, task, scratch); });
}

void conv3x3_weight_gradient(const Conv3x3WeightGradient& params, int threads) {
  const Kernels& k = kernels();
  share_sums(
      k.plan_conv3x3_weight_gradient(params), threads,
      [&](int64_t task, void* scratch, void* partial) { k.conv3x3_weight_gradient(params, task, scratch, partial); },
      [&](const void* partial) { k.finish_conv3x3_weight_gradient(params, partial); });
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels& k : all_kernels()) names.push_back(k.name);
  return names;
}

std::string instruction_set() { return kernels().name; }

bool has_bfloat16_tiles() { return kernels().has_bfloat16_tiles; }

void set_instruction_set(const std::string& name) {
  for (size_t i = 0; i < all_kernels().size(); ++i)
    if (name == all_kernels()[i].name) {
      chosen = i;
      return;
    }
  throw std::invalid_argument("instruction set " + name + " is not one that this machine can run");
}

void set_gomp_parallel(GompParallel function) { gomp_parallel = function; }

}  // namespace cpu
}  // namespace mrda
