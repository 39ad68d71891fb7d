// What the kernels of one instruction set offer to the code that shares them among threads.
#pragma once

#include "../rda_conv.h"

namespace mrda {

// How a call is cut and how much memory it needs.
struct Plan {
  int64_t tasks_per_sample;
  int64_t scratch_bytes;  // per thread, aligned to 64
  int64_t partial_bytes;  // per task, aligned to 64: its share of the gradients that are sums over pixels
};

struct Kernels {
  const char* name;
  Plan (*plan_forward)(const RdaConvForward&);
  void (*forward)(const RdaConvForward&, int64_t task, void* scratch);
  Plan (*plan_backward)(const RdaConvBackward&);
  void (*backward)(const RdaConvBackward&, int64_t task, void* scratch, void* partial);
  // Sums the tasks' shares, in their order.
  void (*reduce)(const RdaConvBackward&, const void* partial);
};

#define MRDA_DECLARE_KERNELS(isa)                                                \
  namespace isa {                                                                \
  Plan plan_forward(const RdaConvForward&);                                      \
  void forward(const RdaConvForward&, int64_t task, void* scratch);              \
  Plan plan_backward(const RdaConvBackward&);                                    \
  void backward(const RdaConvBackward&, int64_t task, void* scratch, void* partial); \
  void reduce(const RdaConvBackward&, const void* partial);                      \
  }

#ifdef MRDA_ISA
MRDA_DECLARE_KERNELS(MRDA_ISA)
#endif

}  // namespace mrda
