// SPDX-License-Identifier: Apache-2.0
// Half an RDA block on a CPU: an RDA convolution, and the 3x3 convolution after it. Compiled once per instruction set.
#include "conv3x3_winograd.h"
#include "kernels.h"
#if defined(__AMX_BF16__)
#include "conv3x3_tiles.h"
#endif

namespace mrda {
namespace MRDA_ISA {
namespace {

template <class T>
struct Convolution {
  using Type = Winograd<T>;
};
#if defined(__AMX_BF16__)
template <>
struct Convolution<BFloat16> {
  using Type = Tiles;
};
#endif

// The scratch memory of a task.
template <class T, class Method = typename Convolution<T>::Type>
struct Call {
  Division division;
  Bump<Accumulator<T>> scratch;
  Method method;
  Rows<T> rows;

  Call(const RdaConv3x3Forward& p, void* memory)
      : division(Method::divide(p)), scratch{static_cast<Accumulator<T>*>(memory)}, method(p, division, scratch),
        rows(Rows<T>::make(p, division, Method::kChannelUnit, scratch)) {}
};

template <class T>
void conv3x3_task(const RdaConv3x3Forward& params, int64_t task, void* memory) {
  using A = Accumulator<T>;
  RdaConv3x3Forward p = params;
  p.channels_last = true;  // in scratch memory, whatever the tensors' layouts
  const Call<T> call(p, memory);
  const Division& d = call.division;
  const Rows<T>& rows = call.rows;
  const int64_t b = task / d.tasks_per_sample(), share = task % d.tasks_per_sample();
  const int64_t strip = share / d.segments, segment = share % d.segments;
  const int64_t row = rows.row(), height = d.step_pixels();
  TapWeights<A> weight{};
  if (p.weight) weight = pack_weight<T>(p, b, rows.steered.geometry, rows.steered.buffer.weight);
  if (rows.pitch != p.channels)  // lanes of channels that do not exist
    memset(static_cast<void*>(rows.data), 0, size_t((height + 2) * row) * sizeof(T));

  const int64_t left = strip * d.strip_columns;  // in windows
  Step step{b, 0, left * kWindowOutputs, 0, minimum(d.strip_columns, d.window_columns - left)};
  const int64_t columns = step.columns * kWindowOutputs + 2;
  const int64_t first = d.steps * segment / d.segments, last = d.steps * (segment + 1) / d.segments;
  for (int64_t s = first; s < last; ++s) {
    step.top = s * height;
    step.rows = minimum(d.step_rows, d.window_rows - s * d.step_rows);
    const int64_t kept = s == first ? 0 : 2;  // rows that the step before computed
    if (kept) memmove(static_cast<void*>(rows.data), rows.data + height * row, size_t(kept * row) * sizeof(T));
    steer(p, rows, weight, step, columns, step.top - 1 + kept, step.rows * kWindowOutputs + 2 - kept,
          rows.data + kept * row);
    call.method.convolve(p, rows, step);
  }
}

template <class T>
Plan conv3x3_plan(const RdaConv3x3Forward& params) {
  RdaConv3x3Forward p = params;
  p.channels_last = true;
  const Call<T> call(p, nullptr);
  return {p.batch * call.division.tasks_per_sample(), call.rows.scratch_bytes, 0};
}

}  // namespace

Plan plan_conv3x3(const RdaConv3x3Forward& p) {
  switch (p.dtype) {
    case DType::kFloat64: return conv3x3_plan<double>(p);
    case DType::kBFloat16: return conv3x3_plan<BFloat16>(p);
    case DType::kFloat16: return conv3x3_plan<Float16>(p);
    default: return conv3x3_plan<float>(p);
  }
}

void conv3x3(const RdaConv3x3Forward& p, int64_t task, void* scratch) {
  switch (p.dtype) {
    case DType::kFloat64: return conv3x3_task<double>(p, task, scratch);
    case DType::kBFloat16: return conv3x3_task<BFloat16>(p, task, scratch);
    case DType::kFloat16: return conv3x3_task<Float16>(p, task, scratch);
    default: return conv3x3_task<float>(p, task, scratch);
  }
}

}  // namespace MRDA_ISA
}  // namespace mrda
