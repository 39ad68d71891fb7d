// SPDX-License-Identifier: Apache-2.0
// The rows of the RDA convolution that a 3x3 convolution reads, made step by step in scratch memory, and what follows
// that convolution.
//
// A strip of the image is some windows of 4 pixels wide. It is worked down step by step: a step computes the next rows
// of the RDA convolution, and convolves them. Nothing but the input and the result touches main memory.
#pragma once

#include "forward_tile.h"

namespace mrda {
namespace MRDA_ISA {

constexpr int64_t kWindowOutputs = 4;  // rows and columns of a window: the unit of the division
constexpr int64_t kSteeredRows = 8;    // of a tile of the RDA convolution

// The division of a call into steps and tasks. It depends on the shape alone, never on the number of threads.
struct Division {
  int64_t window_rows, window_columns;  // of the image
  int64_t strips, strip_columns;        // windows across a strip
  int64_t steps, step_rows;             // windows down a step
  int64_t segments;                     // runs of steps; each is a task

  // Strips of about `windows` windows, in multiples of `unit` columns of them.
  Division(const RdaConv3x3Forward& p, int64_t windows, int64_t unit) {
    window_rows = ceil_div(p.height, kWindowOutputs);
    window_columns = ceil_div(p.width, kWindowOutputs);
    strip_columns = round_up(ceil_div(window_columns, ceil_div(window_columns, windows)), unit);
    strips = ceil_div(window_columns, strip_columns);
    step_rows = minimum(maximum(windows / strip_columns, int64_t(1)), window_rows);
    steps = ceil_div(window_rows, step_rows);
    // Each segment computes two rows of the RDA convolution once more.
    const int64_t others = p.batch * strips;
    const int64_t long_ones = minimum(ceil_div(int64_t(128), others), ceil_div(steps, int64_t(4)));
    segments = maximum(minimum(ceil_div(int64_t(16), others), steps), long_ones);
  }
  int64_t tasks_per_sample() const { return strips * segments; }
  int64_t windows_per_step() const { return strip_columns * step_rows; }
  int64_t step_pixels() const { return step_rows * kWindowOutputs; }
};

// The windows of one step.
struct Step {
  int64_t sample, top, left;  // the first output
  int64_t rows, columns;      // of windows
  int64_t windows() const { return rows * columns; }
};

// Rows of the RDA convolution with a border of one pixel.
template <class T, class A = Accumulator<T>>
struct Rows {
  int64_t pitch;   // elements from pixel to pixel
  int64_t pixels;  // of a row
  T* data;
  ForwardCall<T> steered;
  int64_t scratch_bytes;

  int64_t row() const { return pixels * pitch; }
  // Channels are padded to a multiple of `unit`.
  static Rows make(const RdaConv3x3Forward& p, const Division& d, int64_t unit, Bump<A> scratch) {
    Rows rows;
    rows.pitch = round_up(p.channels, unit);
    rows.pixels = d.strip_columns * kWindowOutputs + 2;
    const int64_t bytes = (d.step_pixels() + 2) * rows.row() * int64_t(sizeof(T));
    rows.data = reinterpret_cast<T*>(scratch.take(ceil_div(bytes, int64_t(sizeof(A)))));
    Geometry<A> geometry(p, rows.pixels, p.kernel_size / 2);
    geometry.tile_width = minimum(rows.pixels, p.width);
    geometry.tile_height = minimum(minimum(p.height, d.step_pixels() + 2), kSteeredRows);
    rows.steered = ForwardCall<T>::at(p, geometry, scratch.base ? scratch.base + scratch.used : nullptr);
    rows.scratch_bytes = scratch.used * int64_t(sizeof(A)) + rows.steered.scratch_bytes;
    return rows;
  }
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
void steer(const RdaConv3x3Forward& p, const Rows<T>& rows, TapWeights<A> weight, const Step& step, int64_t columns,
           int64_t top, int64_t count, T* to) {
  const int64_t row = rows.row(), left = step.left - 1;
  const Span across = span(left, columns, p.width), down = span(top, count, p.height);
  for (int64_t r = 0; r < count; ++r) {
    const bool inside = r >= down.before && r < down.before + down.inside;
    const int64_t before = inside ? across.before : columns, after = inside ? across.after : 0;
    memset(static_cast<void*>(to + r * row), 0, size_t(before * rows.pitch) * sizeof(T));
    T* end = to + r * row + (columns - after) * rows.pitch;
    memset(static_cast<void*>(end), 0, size_t(after * rows.pitch) * sizeof(T));
  }
  const int64_t first = left + across.before;
  T* inner = to + down.before * row + across.before * rows.pitch;
  if (!p.weight) {
    for (int64_t r = 0; r < down.inside; ++r)
      copy_pixels(p.input, {step.sample, top + down.before + r, first}, across.inside, p.channels, rows.pitch,
                  inner + r * row);
    return;
  }
  const auto tile = p.kernel_size == 3 ? forward_tile<3, true, T> : forward_tile<kAnyKernelSize, true, T>;
  for (int64_t r = 0; r < down.inside; r += rows.steered.geometry.tile_height) {
    const int64_t height = minimum(rows.steered.geometry.tile_height, down.inside - r);
    const Position at{step.sample, top + down.before + r, first}, next{step.sample, at.top + height, first};
    RdaConvForward steered = p;
    steered.output = {nullptr, {0, 1, row, rows.pitch}};
    steered.output.data =
        reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(inner + r * row) -
                                uintptr_t((at.top * row + first * rows.pitch) * int64_t(sizeof(T))));
    tile(steered, rows.steered, weight, at, height, across.inside, next);
  }
}

// What follows the convolution: the bias, the skip and the activation of a register of output channels.
template <class T, class A = Accumulator<T>>
struct Ending {
  int64_t count;  // of output channels that exist, from the first one on
  Vec<A> bias, slope;
  View output, skip;
  bool output_whole, skip_whole;  // a register of channels lies in one piece

  MRDA_MEMBER Ending(const RdaConv3x3Forward& p, int64_t channel)
      : count(p.out_channels - channel), bias{}, slope(splat(A(p.final_negative_slope))),
        output(from_channel(p.output, channel)),
        skip(from_channel(p.skip, channel)), output_whole(output.stride[1] == 1 && count >= kLanes<A>),
        skip_whole(skip.stride[1] == 1 && count >= kLanes<A>) {
    if (p.conv_bias && count > 0) bias = load_elements(static_cast<const T*>(p.conv_bias) + channel, 1, count);
  }
  MRDA_MEMBER bool in_one_piece() const { return output_whole && (skip_whole || !skip.data); }
  MRDA_MEMBER static View from_channel(View view, int64_t channel) {
    if (view.data) view.data = static_cast<T*>(view.data) + channel * view.stride[1];
    return view;
  }
  // Skip and output are the addresses of a pixel's first channel; kWhole if both lie in one piece.
  template <bool kWhole>
  MRDA_MEMBER void write(T* to, const T* skipped, Vec<A> y) const {
    y += bias;
    if (skipped) y += kWhole || skip_whole ? load_whole(skipped) : load_elements(skipped, skip.stride[1], count);
    y = leaky_relu(y, slope);  // the identity for a slope of 1
    if (kWhole || output_whole) store_whole(to, y);
    else store_elements(to, output.stride[1], count, y);
  }
  // Asks for what lies at the first channel of a window's pixels; the addresses may be outside the image.
  MRDA_MEMBER void prefetch_window(Position first) const {
    for (int64_t r = 0; r < kWindowOutputs; ++r)
#pragma GCC unroll 4
      for (int64_t s = 0; s < kWindowOutputs; ++s) {
        const Position pixel{first.sample, first.top + r, first.left + s};
        __builtin_prefetch(reinterpret_cast<const void*>(address<T>(output, pixel, 0)), 1);
        if (skip.data) __builtin_prefetch(reinterpret_cast<const void*>(address<T>(skip, pixel, 0)));
      }
  }
  MRDA_MEMBER T* at(const View& view, Position pixel) const {
    return view.data ? reinterpret_cast<T*>(address<T>(view, pixel, 0)) : nullptr;
  }
  MRDA_MEMBER void write(Position pixel, Vec<A> y) const { write<false>(at(output, pixel), at(skip, pixel), y); }
};

}  // namespace MRDA_ISA
}  // namespace mrda
