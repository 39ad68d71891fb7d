// SPDX-License-Identifier: Apache-2.0
// The 3x3 convolution of a step's rows by Winograd's F(4x4, 3x3): its windows are transformed, multiplied, and the
// products transformed back.
#pragma once

#include "conv3x3_rows.h"
#include "winograd.h"

namespace mrda {
namespace MRDA_ISA {

using winograd::kBlock;
using winograd::kOutputs;
using winograd::kProducts;
using winograd::kWindow;
static_assert(kOutputs == kWindowOutputs);

template <class T>
class Winograd {
 public:
  using A = Accumulator<T>;
  static constexpr int64_t kChannelUnit = kLanes<A>;

  static Division divide(const RdaConv3x3Forward& p) {
    constexpr int64_t kWindowsPerStep = 24, kWindowsPerSmallStep = 12;  // chosen by measurement
    constexpr int64_t kTransformedBytes = 256 << 10;                    // of a step's windows, to stay in the L2 cache
    const int64_t window_bytes = kProducts * round_up(p.channels, kChannelUnit) * int64_t(sizeof(A));
    const bool small = p.batch * ceil_div(p.height, kWindowOutputs) * ceil_div(p.width, kWindowOutputs) < 256;
    const int64_t wanted = small ? kWindowsPerSmallStep : kWindowsPerStep;
    return {p, maximum(minimum(wanted, kTransformedBytes / window_bytes), int64_t(kWindowsAtOnce)), 1};
  }

  Winograd(const RdaConv3x3Forward& p, const Division& d, Bump<A>& scratch) {
    constexpr int64_t kLine = kLineBytes / int64_t(sizeof(A));
    window_stride_ = round_up(d.windows_per_step() * round_up(p.channels, kChannelUnit), 2 * kLine) + kLine;
    sum_stride_ = round_up(d.windows_per_step() * kOutputsAtOnce, 2 * kLine) + kLine;
    windows_ = scratch.take(kProducts * window_stride_);
    sums_ = scratch.take(kProducts * sum_stride_);
  }

  void convolve(const RdaConv3x3Forward& p, const Rows<T>& rows, const Step& step) const {
    transform_windows(rows, step);
    const A* weights = static_cast<const A*>(p.packed_weight);
    const int64_t block = kProducts * p.channels * kBlock;
    for (int64_t o = 0; o < p.out_channels; o += kOutputsAtOnce, weights += kBlocksAtOnce * block) {
      if (p.out_channels - o > kBlock) multiply_windows<kBlocksAtOnce>(rows.pitch, step.windows(), p.channels, weights);
      else multiply_windows<1>(rows.pitch, step.windows(), p.channels, weights);
      finish_windows(p, rows, step, o);
    }
  }

 private:
  static constexpr int kBlockVectors = int(kBlock) / kLanes<A>;
  static constexpr int kBlocksAtOnce = kVectorBytes == 64 && kBlockVectors == 1 ? 2 : 1;  // 32 registers, or 16
  static constexpr int64_t kOutputsAtOnce = kBlocksAtOnce * kBlock;
  static constexpr int kWindowsAtOnce = 12 / kBlockVectors;

  int64_t window_stride_;  // from product to product in `windows_`; odd lines, so that they do not share cache sets
  int64_t sum_stride_;     // ... in `sums_`
  A* windows_;             // [product][window][channel]
  A* sums_;                // [product][window][output channel, of those at once]

  void transform_windows(const Rows<T>& rows, const Step& step) const {
    for (int64_t i = 0, window = 0; i < step.rows; ++i) {
      for (int64_t j = 0; j < step.columns; ++j, ++window) {
        const T* corner = rows.data + (i * kOutputs * rows.pixels + j * kOutputs) * rows.pitch;
        A* to = windows_ + window * rows.pitch;
        for (int64_t c = 0; c < rows.pitch; c += kLanes<A>)
          winograd::transform_window<Vec<A>, kWindow>(
              [&](int row, int column) MRDA_LAMBDA {
                return load_whole(corner + (row * rows.pixels + column) * rows.pitch + c);
              },
              [](Vec<A>* x, int stride) MRDA_LAMBDA { winograd::transform_input<A>(x, stride); },
              [&](int row, int column, Vec<A> x) MRDA_LAMBDA {
                store(to + (row * kWindow + column) * window_stride_ + c, x);
              });
      }
    }
  }

  // sums[window][output] = sum_c windows[window][c] * weight[c][output], for kWindows windows and kBlocks blocks of
  // outputs, whose weights lie `weight_stride` apart.
  template <int kWindows, int kBlocks>
  static void multiply(const A* windows, int64_t pitch, int64_t channels, const A* weight, int64_t weight_stride,
                       A* sums) {
    constexpr int kVectors = kBlocks * kBlockVectors, L = kLanes<A>;
    Vec<A> sum[kWindows][kVectors] = {};
    for (int64_t c = 0; c < channels; ++c, weight += kBlock) {
      Vec<A> w[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) w[v] = load(weight + v / kBlockVectors * weight_stride + v % kBlockVectors * L);
#pragma GCC unroll 12
      for (int i = 0; i < kWindows; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[i][v] += w[v] * windows[i * pitch + c];
    }
#pragma GCC unroll 12
    for (int i = 0; i < kWindows; ++i)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) store(sums + i * kOutputsAtOnce + v * L, sum[i][v]);
  }

  template <int kBlocks, int kWindows = kWindowsAtOnce>
  static MRDA_MEMBER void multiply_some(int64_t count, const A* windows, int64_t pitch, int64_t channels,
                                        const A* weight, int64_t weight_stride, A* sums) {
    if constexpr (kWindows > 0) {
      if (count == kWindows) multiply<kWindows, kBlocks>(windows, pitch, channels, weight, weight_stride, sums);
      else multiply_some<kBlocks, kWindows - 1>(count, windows, pitch, channels, weight, weight_stride, sums);
    }
  }

  // All products of a step's windows with some blocks of output channels.
  template <int kBlocks>
  void multiply_windows(int64_t pitch, int64_t windows, int64_t channels, const A* weight) const {
    const int64_t parts = ceil_div(windows, int64_t(kWindowsAtOnce)), weight_stride = kProducts * channels * kBlock;
    for (int product = 0; product < kProducts; ++product, weight += channels * kBlock) {
      const A* from = windows_ + product * window_stride_;
      A* to = sums_ + product * sum_stride_;
      for (int64_t part = 0; part < parts; ++part) {  // of nearly the same size
        const int64_t first = windows * part / parts, count = windows * (part + 1) / parts - first;
        multiply_some<kBlocks>(count, from + first * pitch, pitch, channels, weight, weight_stride,
                               to + first * kOutputsAtOnce);
      }
    }
  }

  // One window's outputs by the definition. Winograd's algorithm spreads a number that is not finite over all outputs
  // of the window, and may overflow where the result does not.
  static void convolve_directly(const RdaConv3x3Forward& p, const Rows<T>& from, int64_t output,
                                const Ending<T>& ending, const T* corner, Position at, int64_t rows, int64_t columns) {
    const T* weights = static_cast<const T*>(p.conv_weight) + output * p.channels * 9;
    Vec<A> sum[kOutputs][kOutputs] = {};
    for (int64_t c = 0; c < p.channels; ++c)
      for (int64_t i = 0; i < 3; ++i)
        for (int64_t j = 0; j < 3; ++j) {
          const Vec<A> weight = load_elements(weights + c * 9 + 3 * i + j, p.channels * 9, ending.count);
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t s = 0; s < columns; ++s)
              sum[r][s] += weight * load_scalar(corner + ((r + i) * from.pixels + s + j) * from.pitch + c);
        }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t s = 0; s < columns; ++s) ending.write({at.sample, at.top + r, at.left + s}, sum[r][s]);
  }

  // Transforms one window's products with a register of output channels back, and writes those outputs that are inside
  // the image. Returns zeros, or NaN where an output is not finite.
  template <bool kWhole>
  MRDA_MEMBER Vec<A> finish_window(const Ending<T>& ending, const A* sums, Position at, int64_t rows,
                                   int64_t columns) const {
    Vec<A> y[kProducts], zeros{};
#pragma GCC unroll 6
    for (int column = 0; column < kWindow; ++column) {
#pragma GCC unroll 6
      for (int row = 0; row < kWindow; ++row)
        y[row * kWindow + column] = load(sums + (row * kWindow + column) * sum_stride_);
      winograd::transform_output<A>(y + column, kWindow);
    }
    T* to = ending.at(ending.output, at);
    const T* skipped = ending.at(ending.skip, at);
#pragma GCC unroll 4
    for (int row = 0; row < kOutputs; ++row) {
      winograd::transform_output<A>(y + row * kWindow, 1);
#pragma GCC unroll 4
      for (int column = 0; column < kOutputs; ++column) {
        const Vec<A> value = y[row * kWindow + column];
        zeros += value * A(0);
        if (kWhole || (row < rows && column < columns))
          ending.template write<kWhole>(to + column * ending.output.stride[3],
                                        skipped ? skipped + column * ending.skip.stride[3] : nullptr, value);
      }
      to += ending.output.stride[2];
      if (skipped) skipped += ending.skip.stride[2];
    }
    return zeros;
  }

  void finish_windows(const RdaConv3x3Forward& p, const Rows<T>& from, const Step& step, int64_t first_output) const {
    const int64_t last_output = minimum(first_output + kOutputsAtOnce, p.out_channels);
    for (int64_t o = first_output; o < last_output; o += kLanes<A>) {
      const Ending<T> ending(p, o);
      for (int64_t i = 0, window = 0; i < step.rows; ++i) {
        for (int64_t j = 0; j < step.columns; ++j, ++window) {
          const Position at{step.sample, step.top + i * kOutputs, step.left + j * kOutputs};
          const int64_t rows = minimum(int64_t(kOutputs), p.height - at.top);
          const int64_t columns = minimum(int64_t(kOutputs), p.width - at.left);
          // One window's arithmetic takes about as long as the next one's lines take to come. With narrower registers
          // asking for them only costs.
          if (kVectorBytes == 64 && ending.in_one_piece() && j + 1 < step.columns)
            ending.prefetch_window({at.sample, at.top, at.left + kOutputs});
          const A* sums = sums_ + window * kOutputsAtOnce + o - first_output;
          const bool whole = ending.in_one_piece() && rows == kOutputs && columns == kOutputs;
          const Vec<A> zeros = whole ? finish_window<true>(ending, sums, at, rows, columns)
                                     : finish_window<false>(ending, sums, at, rows, columns);
          if (!(horizontal_sum<A>(zeros) == A(0))) {
            const T* corner = from.data + (i * kOutputs * from.pixels + j * kOutputs) * from.pitch;
            convolve_directly(p, from, o, ending, corner, at, rows, columns);
          }
        }
      }
    }
  }
};

}  // namespace MRDA_ISA
}  // namespace mrda
