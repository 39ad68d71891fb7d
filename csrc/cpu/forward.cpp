// SPDX-License-Identifier: Apache-2.0
// Forward of the RDA convolution on a CPU. Compiled once per instruction set.
#include "forward_tile.h"
#include "kernels.h"

namespace mrda {
namespace MRDA_ISA {
namespace {

template <class T>
void forward_task(const RdaConvForward& p, int64_t task, void* memory) {
  using A = Accumulator<T>;
  const ForwardCall<T> call = ForwardCall<T>::make(p, memory);
  const Cut c = cut(p, call.geometry);
  const int64_t b = task / c.tasks_per_sample, share = task % c.tasks_per_sample;
  const TapWeights<A> weight = pack_weight<T>(p, b, call.geometry, call.buffer.weight);
  const bool three = p.kernel_size == 3;
  const auto nchw = three ? forward_tile<3, false, T> : forward_tile<kAnyKernelSize, false, T>;
  const auto channels_last = three ? forward_tile<3, true, T> : forward_tile<kAnyKernelSize, true, T>;
  const auto tile_function = p.channels_last ? channels_last : nchw;
  for (int64_t tile = c.first_tile(share); tile < c.first_tile(share + 1); ++tile) {
    const Position at = c.position(call.geometry, b, tile), next = c.position(call.geometry, b, tile + 1);
    const int64_t rows = minimum(call.geometry.tile_height, p.height - at.top);
    tile_function(p, call, weight, at, rows, minimum(call.geometry.tile_width, p.width - at.left), next);
  }
}

template <class T>
Plan forward_plan(const RdaConvForward& p) {
  const ForwardCall<T> call = ForwardCall<T>::make(p, nullptr);
  return {p.batch * cut(p, call.geometry).tasks_per_sample, call.scratch_bytes, 0};
}

}  // namespace

Plan plan_forward(const RdaConvForward& p) {
  switch (p.dtype) {
    case DType::kFloat64: return forward_plan<double>(p);
    case DType::kBFloat16: return forward_plan<BFloat16>(p);
    case DType::kFloat16: return forward_plan<Float16>(p);
    default: return forward_plan<float>(p);
  }
}

void forward(const RdaConvForward& p, int64_t task, void* scratch) {
  switch (p.dtype) {
    case DType::kFloat64: return forward_task<double>(p, task, scratch);
    case DType::kBFloat16: return forward_task<BFloat16>(p, task, scratch);
    case DType::kFloat16: return forward_task<Float16>(p, task, scratch);
    default: return forward_task<float>(p, task, scratch);
  }
}

}  // namespace MRDA_ISA
}  // namespace mrda
