// SPDX-License-Identifier: Apache-2.0
// Half an RDA block on a CPU: an RDA convolution, and the 3x3 convolution after it by Winograd's F(4x4, 3x3). Compiled
// once per instruction set.
//
// A strip of the image is as wide as some 24 windows. It is worked down step by step: a step computes the next rows of
// the RDA convolution into scratch memory, transforms their windows, multiplies, and transforms the products back.
// Nothing but the input and the result touches main memory.
#include "forward_tile.h"
#include "kernels.h"
#include "winograd.h"

namespace mrda {
namespace MRDA_ISA {
namespace {

using winograd::kBlock;
using winograd::kOutputs;
using winograd::kProducts;
using winograd::kWindow;

constexpr int64_t kWindowsPerStep = 24, kWindowsPerSmallStep = 12;  // chosen by measurement
constexpr int64_t kTransformedBytes = 256 << 10;                    // of a step's windows, to stay in the L2 cache
constexpr int64_t kSteeredRows = 8;                                 // of a tile of the RDA convolution

template <class A>
constexpr int kBlockVectors = int(kBlock) / kLanes<A>;
template <class A>
constexpr int kWindowsAtOnce = 12 / kBlockVectors<A>;  // 12 sums in registers

// The division of a call into steps and tasks. It depends on the shape alone, never on the number of threads.
struct Division {
  int64_t window_rows, window_columns;  // of the image
  int64_t strips, strip_columns;        // windows across a strip
  int64_t steps, step_rows;             // windows down a step
  int64_t segments;                     // runs of steps; each is a task
  int64_t tasks_per_sample() const { return strips * segments; }
  int64_t windows_per_step() const { return strip_columns * step_rows; }
};

template <class A>
Division divide(const RdaConv3x3Forward& p) {
  Division d;
  d.window_rows = ceil_div(p.height, int64_t(kOutputs));
  d.window_columns = ceil_div(p.width, int64_t(kOutputs));
  const int64_t window_bytes = kProducts * round_up(p.channels, int64_t(kLanes<A>)) * int64_t(sizeof(A));
  const bool small = p.batch * d.window_rows * d.window_columns < 256;
  const int64_t wanted = small ? kWindowsPerSmallStep : kWindowsPerStep;
  const int64_t windows = maximum(minimum(wanted, kTransformedBytes / window_bytes), int64_t(kWindowsAtOnce<A>));
  d.strips = ceil_div(d.window_columns, windows);
  d.strip_columns = ceil_div(d.window_columns, d.strips);
  d.step_rows = minimum(maximum(windows / d.strip_columns, int64_t(1)), d.window_rows);
  d.steps = ceil_div(d.window_rows, d.step_rows);
  // Each segment computes two rows of the RDA convolution once more.
  const int64_t others = p.batch * d.strips;
  const int64_t long_ones = minimum(ceil_div(int64_t(128), others), ceil_div(d.steps, int64_t(4)));
  d.segments = maximum(minimum(ceil_div(int64_t(16), others), d.steps), long_ones);
  return d;
}

template <class T, class A = Accumulator<T>>
struct Call {
  Division division;
  int64_t pitch;          // channels of a pixel in `rows` and of a window in `windows`
  int64_t row_pixels;     // in `rows`
  int64_t window_stride;  // from product to product in `windows`; odd lines, so that they do not share cache sets
  int64_t sum_stride;     // ... in `sums`
  T* rows;                // of the RDA convolution, with a border of one pixel
  A* windows;             // [product][window][channel]
  A* sums;                // [product][window][output channel of the block]
  ForwardCall<T> steered;
  int64_t scratch_bytes;

  static Call make(const RdaConv3x3Forward& p, void* memory) {
    Call call;
    call.division = divide<A>(p);
    const Division& d = call.division;
    constexpr int64_t kLine = kLineBytes / int64_t(sizeof(A));
    call.pitch = round_up(p.channels, int64_t(kLanes<A>));
    call.row_pixels = d.strip_columns * kOutputs + 2;
    call.window_stride = round_up(d.windows_per_step() * call.pitch, 2 * kLine) + kLine;
    call.sum_stride = round_up(d.windows_per_step() * kBlock, 2 * kLine) + kLine;
    Bump<A> scratch{static_cast<A*>(memory)};
    const int64_t row_elements = (d.step_rows * kOutputs + 2) * call.row_pixels * call.pitch;
    call.rows = reinterpret_cast<T*>(scratch.take(ceil_div(row_elements * int64_t(sizeof(T)), int64_t(sizeof(A)))));
    call.windows = scratch.take(kProducts * call.window_stride);
    call.sums = scratch.take(kProducts * call.sum_stride);
    Geometry<A> geometry(p, call.row_pixels, p.kernel_size / 2);
    geometry.tile_width = minimum(call.row_pixels, p.width);
    geometry.tile_height = minimum(minimum(p.height, d.step_rows * kOutputs + 2), kSteeredRows);
    call.steered = ForwardCall<T>::at(p, geometry, memory ? scratch.base + scratch.used : nullptr);
    call.scratch_bytes = scratch.used * int64_t(sizeof(A)) + call.steered.scratch_bytes;
    return call;
  }
};

// The windows of one step.
struct Step {
  int64_t sample, top, left;  // the first output
  int64_t rows, columns;      // of windows
  int64_t windows() const { return rows * columns; }
};

// The runs of pixels of a row that are outside the image, inside it, and outside again.
struct Span {
  int64_t before, inside, after;
};

MRDA_INLINE Span span(int64_t first, int64_t count, int64_t size) {
  const int64_t before = minimum(maximum(-first, int64_t(0)), count);
  const int64_t inside = maximum(minimum(size - first, count) - before, int64_t(0));
  return {before, inside, count - before - inside};
}

template <class T>
MRDA_INLINE void copy_pixels(const View& from, Position first, int64_t pixels, int64_t channels, int64_t pitch, T* to) {
  const T* source = reinterpret_cast<const T*>(address<T>(from, first, 0));
  for (int64_t w = 0; w < pixels; ++w, source += from.stride[3], to += pitch) {
    if (from.stride[1] == 1) memcpy(to, source, size_t(channels) * sizeof(T));
    else
      for (int64_t c = 0; c < channels; ++c) to[c] = source[c * from.stride[1]];
  }
}

// Computes `count` rows of the RDA convolution from image row `top` on into the rows from `to` on; zero outside the
// image. Without dynamic kernels, copies the input.
template <class T, class A = Accumulator<T>>
void steer(const RdaConv3x3Forward& p, const Call<T>& call, TapWeights<A> weight, const Step& step, int64_t columns,
           int64_t top, int64_t count, T* to) {
  const int64_t row = call.row_pixels * call.pitch, left = step.left - 1;
  const Span across = span(left, columns, p.width), down = span(top, count, p.height);
  for (int64_t r = 0; r < count; ++r) {
    const bool inside = r >= down.before && r < down.before + down.inside;
    const int64_t before = inside ? across.before : columns, after = inside ? across.after : 0;
    memset(static_cast<void*>(to + r * row), 0, size_t(before * call.pitch) * sizeof(T));
    T* end = to + r * row + (columns - after) * call.pitch;
    memset(static_cast<void*>(end), 0, size_t(after * call.pitch) * sizeof(T));
  }
  const int64_t first = left + across.before;
  T* inner = to + down.before * row + across.before * call.pitch;
  if (!p.weight) {
    for (int64_t r = 0; r < down.inside; ++r)
      copy_pixels(p.input, {step.sample, top + down.before + r, first}, across.inside, p.channels, call.pitch,
                  inner + r * row);
    return;
  }
  const auto tile = p.kernel_size == 3 ? forward_tile<3, true, T> : forward_tile<kAnyKernelSize, true, T>;
  for (int64_t r = 0; r < down.inside; r += call.steered.geometry.tile_height) {
    const int64_t rows = minimum(call.steered.geometry.tile_height, down.inside - r);
    const Position at{step.sample, top + down.before + r, first}, next{step.sample, at.top + rows, first};
    RdaConvForward steered = p;
    steered.output = {nullptr, {0, 1, row, call.pitch}};
    steered.output.data =
        reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(inner + r * row) -
                                uintptr_t((at.top * row + first * call.pitch) * int64_t(sizeof(T))));
    tile(steered, call.steered, weight, at, rows, across.inside, next);
  }
}

template <class T, class A = Accumulator<T>>
void transform_windows(const Call<T>& call, const Step& step) {
  for (int64_t i = 0, window = 0; i < step.rows; ++i) {
    for (int64_t j = 0; j < step.columns; ++j, ++window) {
      const T* corner = call.rows + (i * kOutputs * call.row_pixels + j * kOutputs) * call.pitch;
      A* to = call.windows + window * call.pitch;
      for (int64_t c = 0; c < call.pitch; c += kLanes<A>) {
        Vec<A> x[kProducts];
#pragma GCC unroll 6
        for (int column = 0; column < kWindow; ++column) {
#pragma GCC unroll 6
          for (int row = 0; row < kWindow; ++row)
            x[row * kWindow + column] = load_whole(corner + (row * call.row_pixels + column) * call.pitch + c);
          winograd::transform_input<A>(x + column, kWindow);
        }
#pragma GCC unroll 6
        for (int row = 0; row < kWindow; ++row) {
          winograd::transform_input<A>(x + row * kWindow, 1);
#pragma GCC unroll 6
          for (int column = 0; column < kWindow; ++column)
            store(to + (row * kWindow + column) * call.window_stride + c, x[row * kWindow + column]);
        }
      }
    }
  }
}

// sums[window][output] = sum_c windows[window][c] * weight[c][output], for kWindows windows and a block of outputs.
template <int kWindows, class A>
void multiply(const A* windows, int64_t pitch, int64_t channels, const A* weight, A* sums) {
  constexpr int kVectors = kBlockVectors<A>, L = kLanes<A>;
  Vec<A> sum[kWindows][kVectors] = {};
  for (int64_t c = 0; c < channels; ++c, weight += kBlock) {
    Vec<A> w[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) w[v] = load(weight + v * L);
#pragma GCC unroll 12
    for (int i = 0; i < kWindows; ++i)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[i][v] += w[v] * windows[i * pitch + c];
  }
#pragma GCC unroll 12
  for (int i = 0; i < kWindows; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store(sums + i * kBlock + v * L, sum[i][v]);
}

template <class A, int kWindows = kWindowsAtOnce<A>>
MRDA_INLINE void multiply_some(int64_t count, const A* windows, int64_t pitch, int64_t channels, const A* weight,
                               A* sums) {
  if constexpr (kWindows > 0) {
    if (count == kWindows) multiply<kWindows>(windows, pitch, channels, weight, sums);
    else multiply_some<A, kWindows - 1>(count, windows, pitch, channels, weight, sums);
  }
}

// All products of a step's windows with a block of output channels.
template <class T, class A = Accumulator<T>>
void multiply_windows(const Call<T>& call, int64_t windows, int64_t channels, const A* weight) {
  const int64_t parts = ceil_div(windows, int64_t(kWindowsAtOnce<A>));
  for (int product = 0; product < kProducts; ++product, weight += channels * kBlock) {
    const A* from = call.windows + product * call.window_stride;
    A* to = call.sums + product * call.sum_stride;
    for (int64_t part = 0; part < parts; ++part) {  // of nearly the same size
      const int64_t first = windows * part / parts, count = windows * (part + 1) / parts - first;
      multiply_some<A>(count, from + first * call.pitch, call.pitch, channels, weight, to + first * kBlock);
    }
  }
}

// What follows the convolution: the bias, the skip and the activation of a register of output channels.
template <class T, class A = Accumulator<T>>
struct Ending {
  int64_t count;  // of output channels that exist, from the first one on
  Vec<A> bias, slope;
  bool activated;
  View output, skip;
  bool output_whole, skip_whole;  // a register of channels lies in one piece

  MRDA_MEMBER Ending(const RdaConv3x3Forward& p, int64_t channel)
      : count(p.out_channels - channel), bias{}, slope(splat(A(p.final_negative_slope))),
        activated(p.final_negative_slope != 1), output(from_channel(p.output, channel)),
        skip(from_channel(p.skip, channel)), output_whole(output.stride[1] == 1 && count >= kLanes<A>),
        skip_whole(skip.stride[1] == 1 && count >= kLanes<A>) {
    if (p.conv_bias) bias = load_elements(static_cast<const T*>(p.conv_bias) + channel, 1, count);
  }
  MRDA_MEMBER static View from_channel(View view, int64_t channel) {
    if (view.data) view.data = static_cast<T*>(view.data) + channel * view.stride[1];
    return view;
  }
  // Skip and output are the addresses of a pixel's first channel; kWhole if both lie in one piece.
  template <bool kWhole>
  MRDA_MEMBER void write(T* to, const T* skipped, Vec<A> y) const {
    y += bias;
    if (skipped) y += kWhole || skip_whole ? load_whole(skipped) : load_elements(skipped, skip.stride[1], count);
    if (activated) y = leaky_relu(y, slope);
    if (kWhole || output_whole) store_whole(to, y);
    else store_elements(to, output.stride[1], count, y);
  }
  MRDA_MEMBER T* at(const View& view, Position pixel) const {
    return view.data ? reinterpret_cast<T*>(address<T>(view, pixel, 0)) : nullptr;
  }
  MRDA_MEMBER void write(Position pixel, Vec<A> y) const { write<false>(at(output, pixel), at(skip, pixel), y); }
};

// One window's outputs by the definition. Winograd's algorithm spreads a number that is not finite over all outputs of
// the window, and may overflow where the result does not.
template <class T, class A = Accumulator<T>>
void convolve_directly(const RdaConv3x3Forward& p, const Call<T>& call, int64_t output, const Ending<T>& ending,
                       const T* corner, Position at, int64_t rows, int64_t columns) {
  const T* weights = static_cast<const T*>(p.conv_weight) + output * p.channels * 9;
  Vec<A> sum[kOutputs][kOutputs] = {};
  for (int64_t c = 0; c < p.channels; ++c)
    for (int64_t i = 0; i < 3; ++i)
      for (int64_t j = 0; j < 3; ++j) {
        const Vec<A> weight = load_elements(weights + c * 9 + 3 * i + j, p.channels * 9, ending.count);
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t s = 0; s < columns; ++s)
            sum[r][s] += weight * load_scalar(corner + ((r + i) * call.row_pixels + s + j) * call.pitch + c);
      }
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t s = 0; s < columns; ++s) ending.write({at.sample, at.top + r, at.left + s}, sum[r][s]);
}

// Transforms one window's products with a register of output channels back, and writes those outputs that are inside
// the image. Returns zeros, or NaN where an output is not finite.
template <bool kWhole, class T, class A = Accumulator<T>>
MRDA_INLINE Vec<A> finish_window(const Ending<T>& ending, const A* sums, int64_t sum_stride, Position at, int64_t rows,
                                 int64_t columns) {
  Vec<A> y[kProducts], zeros{};
#pragma GCC unroll 6
  for (int column = 0; column < kWindow; ++column) {
#pragma GCC unroll 6
    for (int row = 0; row < kWindow; ++row)
      y[row * kWindow + column] = load(sums + (row * kWindow + column) * sum_stride);
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

template <class T, class A = Accumulator<T>>
void finish_windows(const RdaConv3x3Forward& p, const Call<T>& call, const Step& step, int64_t first_output) {
  const int64_t last_output = minimum(first_output + kBlock, p.out_channels);
  for (int64_t o = first_output; o < last_output; o += kLanes<A>) {
    const Ending<T> ending(p, o);
    const bool in_one_piece = ending.output_whole && (ending.skip_whole || !ending.skip.data);
    for (int64_t i = 0, window = 0; i < step.rows; ++i) {
      for (int64_t j = 0; j < step.columns; ++j, ++window) {
        const Position at{step.sample, step.top + i * kOutputs, step.left + j * kOutputs};
        const int64_t rows = minimum(int64_t(kOutputs), p.height - at.top);
        const int64_t columns = minimum(int64_t(kOutputs), p.width - at.left);
        const A* sums = call.sums + window * kBlock + o - first_output;
        const bool whole = in_one_piece && rows == kOutputs && columns == kOutputs;
        const Vec<A> zeros = whole ? finish_window<true>(ending, sums, call.sum_stride, at, rows, columns)
                                   : finish_window<false>(ending, sums, call.sum_stride, at, rows, columns);
        if (!(horizontal_sum<A>(zeros) == A(0))) {
          const T* corner = call.rows + (i * kOutputs * call.row_pixels + j * kOutputs) * call.pitch;
          convolve_directly(p, call, o, ending, corner, at, rows, columns);
        }
      }
    }
  }
}

template <class T>
void conv3x3_task(const RdaConv3x3Forward& params, int64_t task, void* memory) {
  using A = Accumulator<T>;
  RdaConv3x3Forward p = params;
  p.channels_last = true;  // in scratch memory, whatever the tensors' layouts
  const Call<T> call = Call<T>::make(p, memory);
  const Division& d = call.division;
  const int64_t b = task / d.tasks_per_sample(), share = task % d.tasks_per_sample();
  const int64_t strip = share / d.segments, segment = share % d.segments;
  const int64_t row = call.row_pixels * call.pitch, height = d.step_rows * kOutputs;
  TapWeights<A> weight{};
  if (p.weight) weight = pack_weight<T>(p, b, call.steered.geometry, call.steered.buffer.weight);
  if (call.pitch != p.channels)  // lanes of channels that do not exist
    memset(static_cast<void*>(call.rows), 0, size_t((height + 2) * row) * sizeof(T));

  const int64_t left = strip * d.strip_columns;  // in windows
  Step step{b, 0, left * kOutputs, 0, minimum(d.strip_columns, d.window_columns - left)};
  const int64_t columns = step.columns * kOutputs + 2;
  const int64_t first = d.steps * segment / d.segments, last = d.steps * (segment + 1) / d.segments;
  for (int64_t s = first; s < last; ++s) {
    step.top = s * height;
    step.rows = minimum(d.step_rows, d.window_rows - s * d.step_rows);
    const int64_t kept = s == first ? 0 : 2;  // rows that the step before computed
    if (kept) memmove(static_cast<void*>(call.rows), call.rows + height * row, size_t(kept * row) * sizeof(T));
    steer(p, call, weight, step, columns, step.top - 1 + kept, step.rows * kOutputs + 2 - kept, call.rows + kept * row);
    transform_windows(call, step);
    const A* weights = static_cast<const A*>(p.packed_weight);
    for (int64_t o = 0; o < p.out_channels; o += kBlock, weights += kProducts * p.channels * kBlock) {
      multiply_windows(call, step.windows(), p.channels, weights);
      finish_windows(p, call, step, o);
    }
  }
}

template <class T>
Plan conv3x3_plan(const RdaConv3x3Forward& params) {
  RdaConv3x3Forward p = params;
  p.channels_last = true;
  const Call<T> call = Call<T>::make(p, nullptr);
  return {call.division.tasks_per_sample(), call.scratch_bytes, 0};
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
