// SPDX-License-Identifier: Apache-2.0
// The gradient of a 3x3 convolution's weights by Winograd's F(4x4, 3x3): with the gradient g of the result,
//
//   grad_w = G^T [ sum over windows of (B^T x B) * (A g A^T) ] G
//
// has a quarter of the products of the definition. Compiled once per instruction set.
#include "kernels.h"
#include "tile.h"
#include "winograd.h"

namespace mrda {
namespace MRDA_ISA {
namespace {

using winograd::kOutputs;
using winograd::kProducts;
using winograd::kWindow;

template <class T>
class WeightGradient {
 public:
  using A = Accumulator<T>;

  WeightGradient(const Conv3x3WeightGradient& p, void* memory) : p_(p) {
    rows_ = ceil_div(p.height, int64_t(kOutputs));
    columns_ = ceil_div(p.width, int64_t(kOutputs));
    input_pitch_ = round_up(p.channels, L);
    grad_pitch_ = round_up(p.out_channels, kVectorsAtOnce * L);
    constexpr int64_t kLine = kLineBytes / int64_t(sizeof(A));  // odd lines, which do not share cache sets
    input_stride_ = round_up(kWindowsPerStep * input_pitch_, 2 * kLine) + kLine;
    grad_stride_ = round_up(kWindowsPerStep * grad_pitch_, 2 * kLine) + kLine;
    Bump<A> scratch{static_cast<A*>(memory)};
    inputs_ = scratch.take(kProducts * input_stride_);
    grads_ = scratch.take(kProducts * grad_stride_);
    scratch_bytes_ = scratch.used * int64_t(sizeof(A));
  }

  // The division depends on the shape alone, never on the number of threads.
  Plan plan() const {
    constexpr int64_t kWindowsPerTask = 256, kMostTasks = 16, kMostBytes = 32 << 20;  // of all partial sums
    const int64_t bytes = sums() * int64_t(sizeof(A));
    const int64_t most = maximum(minimum(kMostTasks, kMostBytes / bytes), int64_t(1));
    return {minimum(ceil_div(windows(), kWindowsPerTask), most), scratch_bytes_, bytes};
  }

  // Adds up the products of a task's windows.
  void run(int64_t task, void* partial) const {
    A* sums_of_task = static_cast<A*>(partial);
    const int64_t tasks = plan().tasks, last = windows() * (task + 1) / tasks;
    fill_zero(sums_of_task, sums());
    for (int64_t first = windows() * task / tasks; first < last; first += kWindowsPerStep) {
      const int64_t count = minimum(kWindowsPerStep, last - first);
      for (int64_t i = 0; i < count; ++i) transform(first + i, i);
      multiply(count, sums_of_task);
    }
  }

  // The gradient, from the sums of all tasks in their order.
  void finish(const void* all_sums) const {
    const A* partial = static_cast<const A*>(all_sums);
    const int64_t tasks = plan().tasks;
    A* grad_weight = static_cast<A*>(p_.grad_weight);
    for (int64_t c = 0; c < p_.channels; ++c)
      for (int64_t o = 0; o < p_.out_channels; o += L) {
        Vec<A> u[kProducts];
        for (int product = 0; product < kProducts; ++product) {
          const A* from = partial + (product * p_.channels + c) * grad_pitch_ + o;
          u[product] = load(from);
          for (int64_t task = 1; task < tasks; ++task) u[product] += load(from + task * sums());
        }
        for (int column = 0; column < kWindow; ++column) winograd::transform_weight_gradient<A>(u + column, kWindow);
        for (int row = 0; row < 3; ++row) {
          winograd::transform_weight_gradient<A>(u + row * kWindow, 1);
          for (int column = 0; column < 3; ++column)
            store_elements(grad_weight + (o * p_.channels + c) * 9 + 3 * row + column, p_.channels * 9,
                           p_.out_channels - o, u[row * kWindow + column]);
        }
      }
  }

 private:
  static constexpr int64_t L = kLanes<A>;
  static constexpr int64_t kWindowsPerStep = 24;  // chosen by measurement: two steps' worth would leave the L2 cache
  static constexpr int kVectorsAtOnce = 2, kChannelsAtOnce = kVectorBytes == 64 ? 12 : 6;  // 32 registers, or 16

  const Conv3x3WeightGradient& p_;
  int64_t rows_, columns_;             // of windows in an image
  int64_t input_pitch_, grad_pitch_;   // elements from window to window
  int64_t input_stride_, grad_stride_;  // from product to product
  int64_t scratch_bytes_;
  A* inputs_;  // [product][window][channel]
  A* grads_;   // [product][window][output channel]

  int64_t windows() const { return p_.batch * rows_ * columns_; }
  int64_t sums() const { return kProducts * p_.channels * grad_pitch_; }  // [product][channel][output channel]

  // A register of channels of one pixel; zero outside the image.
  MRDA_MEMBER Vec<A> pixel(const View& view, Position at, int64_t channel, int64_t channels) const {
    if (!inside(at.top, p_.height) || !inside(at.left, p_.width)) return Vec<A>{};
    const T* from = reinterpret_cast<const T*>(address<T>(view, at, 0)) + channel * view.stride[1];
    const bool whole = view.stride[1] == 1 && channels - channel >= L;
    return whole ? load_whole(from) : load_elements(from, view.stride[1], channels - channel);
  }

  void transform(int64_t window, int64_t to) const {
    const int64_t sample = window / (rows_ * columns_), place = window % (rows_ * columns_);
    const int64_t top = place / columns_ * kOutputs, left = place % columns_ * kOutputs;
    const auto transform_input = [](Vec<A>* x, int stride) MRDA_LAMBDA { winograd::transform_input<A>(x, stride); };
    const auto transform_grad = [](Vec<A>* g, int stride) MRDA_LAMBDA { winograd::transform_output_gradient<A>(g, stride); };
    for (int64_t c = 0; c < p_.channels; c += L)
      winograd::transform_window<Vec<A>, kWindow>(
          [&](int row, int column) MRDA_LAMBDA {
            return pixel(p_.input, {sample, top + row - 1, left + column - 1}, c, p_.channels);
          },
          transform_input,
          [&](int row, int column, Vec<A> x) MRDA_LAMBDA {
            store(inputs_ + (row * kWindow + column) * input_stride_ + to * input_pitch_ + c, x);
          });
    for (int64_t o = 0; o < grad_pitch_; o += L)
      winograd::transform_window<Vec<A>, kOutputs>(
          [&](int row, int column) MRDA_LAMBDA {
            return o < p_.out_channels ? pixel(p_.grad_output, {sample, top + row, left + column}, o, p_.out_channels)
                                       : Vec<A>{};
          },
          transform_grad,
          [&](int row, int column, Vec<A> g) MRDA_LAMBDA {
            store(grads_ + (row * kWindow + column) * grad_stride_ + to * grad_pitch_ + o, g);
          });
  }

  // sums[channel][output] += sum over windows of inputs[window][channel] * grads[window][output]
  template <int kChannels>
  MRDA_INLINE void accumulate(const A* inputs, int64_t input_pitch, const A* grads, int64_t grad_pitch,
                              int64_t windows, A* sums) {
    Vec<A> sum[kChannels][kVectorsAtOnce];
#pragma GCC unroll 12
    for (int i = 0; i < kChannels; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < kVectorsAtOnce; ++v) sum[i][v] = load(sums + i * grad_pitch + v * L);
    for (int64_t w = 0; w < windows; ++w, inputs += input_pitch, grads += grad_pitch) {
      const Vec<A> first = load(grads), second = load(grads + L);
#pragma GCC unroll 12
      for (int i = 0; i < kChannels; ++i) {
        sum[i][0] += first * inputs[i];
        sum[i][1] += second * inputs[i];
      }
    }
#pragma GCC unroll 12
    for (int i = 0; i < kChannels; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < kVectorsAtOnce; ++v) store(sums + i * grad_pitch + v * L, sum[i][v]);
  }

  template <int kChannels = kChannelsAtOnce>
  MRDA_INLINE void accumulate_some(int64_t channels, const A* inputs, int64_t input_pitch, const A* grads,
                                   int64_t grad_pitch, int64_t windows, A* sums) {
    if constexpr (kChannels > 0) {
      if (channels == kChannels) accumulate<kChannels>(inputs, input_pitch, grads, grad_pitch, windows, sums);
      else accumulate_some<kChannels - 1>(channels, inputs, input_pitch, grads, grad_pitch, windows, sums);
    }
  }

  void multiply(int64_t windows, A* sums) const {
    const int64_t parts = ceil_div(p_.channels, int64_t(kChannelsAtOnce));
    for (int product = 0; product < kProducts; ++product, sums += p_.channels * grad_pitch_)
      for (int64_t o = 0; o < grad_pitch_; o += kVectorsAtOnce * L)
        for (int64_t part = 0; part < parts; ++part) {  // of nearly the same size
          const int64_t c = p_.channels * part / parts, count = p_.channels * (part + 1) / parts - c;
          accumulate_some(count, inputs_ + product * input_stride_ + c, input_pitch_,
                          grads_ + product * grad_stride_ + o, grad_pitch_, windows, sums + c * grad_pitch_ + o);
        }
  }
};

// Calls `use` with the work of the accumulation and element types of a call.
template <class Use>
void with_types(const Conv3x3WeightGradient& p, void* scratch, const Use& use) {
  switch (p.dtype) {
    case DType::kFloat64: return use(WeightGradient<double>(p, scratch));
    case DType::kBFloat16: return use(WeightGradient<BFloat16>(p, scratch));
    case DType::kFloat16: return use(WeightGradient<Float16>(p, scratch));
    default: return use(WeightGradient<float>(p, scratch));
  }
}

}  // namespace

Plan plan_conv3x3_weight_gradient(const Conv3x3WeightGradient& p) {
  Plan plan{};
  with_types(p, nullptr, [&](const auto& work) { plan = work.plan(); });
  return plan;
}

void conv3x3_weight_gradient(const Conv3x3WeightGradient& p, int64_t task, void* scratch, void* partial) {
  with_types(p, scratch, [&](const auto& work) { work.run(task, partial); });
}

void finish_conv3x3_weight_gradient(const Conv3x3WeightGradient& p, const void* partial) {
  with_types(p, nullptr, [&](const auto& work) { work.finish(partial); });
}

}  // namespace MRDA_ISA
}  // namespace mrda
