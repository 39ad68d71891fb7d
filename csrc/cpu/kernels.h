// SPDX-License-Identifier: Apache-2.0
// The kernels of one instruction set, as the code that shares the work among threads calls them.
#pragma once

#include "../rda_conv.h"

namespace mrda {

// The number of tasks of a call, and the memory it needs.
struct Plan {
  int64_t tasks;
  int64_t scratch_bytes;  // per thread, aligned to 64
  int64_t partial_bytes;  // per task: its partial sums of gradients over pixels
};

struct Kernels {
  const char* name;
  Plan (*plan_forward)(const RdaConvForward&);
  void (*forward)(const RdaConvForward&, int64_t task, void* scratch);
  Plan (*plan_backward)(const RdaConvBackward&);
  void (*backward)(const RdaConvBackward&, int64_t task, void* scratch, void* partial);
  // Adds up the partial sums in the order of the tasks.
  void (*reduce)(const RdaConvBackward&, const void* partial);
  Plan (*plan_conv3x3)(const RdaConv3x3Forward&);
  void (*conv3x3)(const RdaConv3x3Forward&, int64_t task, void* scratch);
  Plan (*plan_conv3x3_weight_gradient)(const Conv3x3WeightGradient&);
  void (*conv3x3_weight_gradient)(const Conv3x3WeightGradient&, int64_t task, void* scratch, void* partial);
  void (*finish_conv3x3_weight_gradient)(const Conv3x3WeightGradient&, const void* partial);
  bool has_bfloat16_tiles;  // conv3x3 takes the weights of bfloat16 in the layout of tiles.h
};

#define MRDA_DECLARE_KERNELS(isa)                                                \
  namespace isa {                                                                \
  Plan plan_forward(const RdaConvForward&);                                      \
  void forward(const RdaConvForward&, int64_t task, void* scratch);              \
  Plan plan_backward(const RdaConvBackward&);                                    \
  void backward(const RdaConvBackward&, int64_t task, void* scratch, void* partial); \
  void reduce(const RdaConvBackward&, const void* partial);                      \
  Plan plan_conv3x3(const RdaConv3x3Forward&);                                   \
  void conv3x3(const RdaConv3x3Forward&, int64_t task, void* scratch);           \
  Plan plan_conv3x3_weight_gradient(const Conv3x3WeightGradient&);               \
  void conv3x3_weight_gradient(const Conv3x3WeightGradient&, int64_t task, void* scratch, void* partial); \
  void finish_conv3x3_weight_gradient(const Conv3x3WeightGradient&, const void* partial);                  \
  }

#ifdef MRDA_ISA
MRDA_DECLARE_KERNELS(MRDA_ISA)
#endif

}  // namespace mrda
