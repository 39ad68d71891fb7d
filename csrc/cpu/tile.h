// SPDX-License-Identifier: Apache-2.0
// A tile: a window of one sample's image, all channels, copied to scratch memory as lanes of the accumulation type.
//
// The copy makes everything else simple and fast: it handles any strides and element type, the zero border exists in
// memory, each element is read from main memory once, and planes of power-of-two size do not compete for cache sets.
// Only the forward of float channels_last tensors needs no copy, because they already have the layout of the lanes.
//
// Lanes lie along the width (NCHW) or along the channels (channels_last). The kernels need not know which: they work on
// groups (a channel, or a register full of channels), rows, steps (a register full of pixels, or a pixel) and taps.
#pragma once

#include "simd.h"

namespace mrda {
namespace MRDA_ISA {

template <class I>
MRDA_INLINE constexpr I minimum(I a, I b) {
  return a < b ? a : b;
}
template <class I>
MRDA_INLINE constexpr I maximum(I a, I b) {
  return a > b ? a : b;
}
MRDA_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
MRDA_INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Planes of numbers in scratch memory; strides count elements. `tap` is the stride to the next pixel on the right.
template <class A>
struct Region {
  A* data;
  int64_t group, row, step, tap;
  int64_t rows, steps;

  MRDA_MEMBER A* at(int64_t g, int64_t r, int64_t s) const { return data + g * group + r * row + s * step; }
  // One channel of one pixel, if lanes are channels.
  MRDA_MEMBER A channel(int64_t c, int64_t r, int64_t s) const { return at(c / kLanes<A>, r, s)[c % kLanes<A>]; }
  // The same numbers, starting `halo` rows down and `halo` pixels to the right.
  MRDA_MEMBER Region inner(int64_t halo, int64_t inner_rows, int64_t inner_steps) const {
    return {data + halo * row + halo * tap, group, row, step, tap, inner_rows, inner_steps};
  }
};

template <class A>
struct Geometry {
  static constexpr int64_t L = kLanes<A>;
  bool channels_last;
  int64_t channels, padded_channels, groups;
  int64_t kernel_size, pad;
  int64_t tile_height, tile_width;  // of the result
  int64_t pitch;                    // elements from row to row if lanes lie along the width

  Geometry() = default;
  MRDA_MEMBER explicit Geometry(const RdaConvParams& p, int64_t width, int64_t halo) {
    channels_last = p.channels_last;
    channels = p.channels;
    padded_channels = round_up(channels, L);
    groups = channels_last ? padded_channels / L : channels;
    kernel_size = p.kernel_size;
    pad = kernel_size / 2;
    tile_width = minimum(round_up(p.width, L), width);
    tile_height = 1;
    // a tap may look 2 * pad beyond the last whole register
    pitch = round_up(tile_width + 2 * halo, L) + round_up(2 * pad, L);
  }

  MRDA_MEMBER int64_t steps(int64_t columns) const { return channels_last ? columns : ceil_div(columns, L); }
  MRDA_MEMBER int64_t row_elements(int64_t columns) const { return channels_last ? columns * L : pitch; }
  MRDA_MEMBER int64_t region_elements(int64_t halo) const {
    return groups * (tile_height + 2 * halo) * row_elements(tile_width + 2 * halo);
  }
  MRDA_MEMBER Region<A> region(A* data, int64_t halo) const {
    const int64_t rows = tile_height + 2 * halo, columns = tile_width + 2 * halo, row = row_elements(columns);
    return {data, rows * row, row, L, channels_last ? L : 1, rows, steps(columns)};
  }
  // A plane that all groups share: one register for each step, all of whose lanes are equal if lanes are channels.
  MRDA_MEMBER int64_t shared_elements(int64_t halo) const {
    return (tile_height + 2 * halo) * steps(tile_width + 2 * halo) * L;
  }
  MRDA_MEMBER Region<A> shared_region(A* data, int64_t halo) const {
    const int64_t n = steps(tile_width + 2 * halo);
    return {data, 0, n * L, L, channels_last ? L : 1, tile_height + 2 * halo, n};
  }
};

constexpr int64_t kLineBytes = 64;  // of the caches

// A hint: any address is allowed.
MRDA_INLINE void prefetch(uintptr_t address) { __builtin_prefetch(reinterpret_cast<const void*>(address)); }

template <class A>
MRDA_INLINE void fill_zero(A* p, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = 0;
}

// The position of a tile's first pixel.
struct Position {
  int64_t sample, top, left;
};

// The address of row `r` of a tile: a number, since it may be outside the tensor.
template <class T>
MRDA_INLINE uintptr_t address(const View& view, Position tile, int64_t r) {
  const int64_t offset =
      tile.sample * view.stride[0] + (tile.top + r) * view.stride[2] + tile.left * view.stride[3];
  return reinterpret_cast<uintptr_t>(view.data) + uintptr_t(offset * int64_t(sizeof(T)));
}

// True if tiles can be read without a copy: registers of channels, in the accumulation type.
template <class T, class A = Accumulator<T>>
MRDA_INLINE bool readable_in_place(const RdaConvParams& p, const View& view) {
  return sizeof(T) == sizeof(A) && p.channels_last && view.stride[1] == 1 && p.channels % kLanes<A> == 0;
}

// The tile as a region of the tensor itself; read-only.
template <class T, class A = Accumulator<T>>
MRDA_INLINE Region<A> in_place(const View& view, Position tile, int64_t rows, int64_t steps) {
  const int64_t offset =
      tile.sample * view.stride[0] + tile.top * view.stride[2] + tile.left * view.stride[3];
  return {static_cast<A*>(view.data) + offset, kLanes<A>, view.stride[2], view.stride[3], view.stride[3], rows, steps};
}

// Copies the window of sample `b` whose first pixel is (top, left) into `region`; zero outside the image.
template <class T, class A = Accumulator<T>>
static void pack(const RdaConvParams& p, const View& view, int64_t b, int64_t top, int64_t left,
                 const Geometry<A>& geometry, Region<A> region) {
  constexpr int64_t L = kLanes<A>;
  const T* sample = static_cast<const T*>(view.data) + b * view.stride[0];
  const int64_t channel_stride = view.stride[1], row_stride = view.stride[2], pixel_stride = view.stride[3];
  const int64_t columns = geometry.channels_last ? region.steps : region.steps * L;
  const int64_t first = maximum(left, int64_t(0));        // the first column inside the image,
  const int64_t before = minimum(first - left, columns);  // the columns before it
  const int64_t inside = maximum(minimum(p.width - first, columns - before), int64_t(0));
  // The next row (or channel) is prefetched while this one is copied: the runs are too short for the processor's own
  // prefetching.
  if (geometry.channels_last) {
    const int64_t whole = channel_stride == 1 ? p.channels / L : 0;  // groups of L contiguous channels
    for (int64_t r = 0; r < region.rows; ++r) {
      const int64_t h = top + r;
      const bool empty = !mrda::inside(h, p.height) || inside == 0;
      for (int64_t g = 0; g < geometry.groups; ++g) {
        A* to = region.at(g, r, 0);
        fill_zero(to, empty ? region.row : before * L);
        if (!empty) fill_zero(to + (before + inside) * L, region.row - (before + inside) * L);
      }
      if (empty) continue;
      const T* from = sample + h * row_stride + first * pixel_stride;
      A* to = region.at(0, r, before);
      for (int64_t w = 0; w < inside; ++w, from += pixel_stride, to += L) {
        if (r + 1 < region.rows)
          for (int64_t byte = 0; byte < p.channels * int64_t(sizeof(T)); byte += kLineBytes)
            prefetch(reinterpret_cast<uintptr_t>(from + row_stride) + uintptr_t(byte));
        for (int64_t g = 0; g < whole; ++g) store(to + g * region.group, load_whole(from + g * L));
        for (int64_t g = whole; g < geometry.groups; ++g)
          store(to + g * region.group,
                load_elements(from + g * L * channel_stride, channel_stride, p.channels - g * L));
      }
    }
    return;
  }
  for (int64_t c = 0; c < geometry.channels; ++c) {
    for (int64_t r = 0; r < region.rows; ++r) {
      const int64_t h = top + r;
      A* to = region.at(c, r, 0);
      if (!mrda::inside(h, p.height)) {
        fill_zero(to, region.row);
        continue;
      }
      const T* from = sample + c * channel_stride + h * row_stride + first * pixel_stride;
      fill_zero(to, before);
      int64_t w = 0;
      if (pixel_stride == 1) {
        for (int64_t byte = 0; byte < inside * int64_t(sizeof(T)); byte += kLineBytes)
          prefetch(reinterpret_cast<uintptr_t>(from + channel_stride) + uintptr_t(byte));
        for (; w + L <= inside; w += L) store(to + before + w, load_whole(from + w));
      }
      for (; w < inside; w += L)
        store(to + before + w, load_elements(from + w * pixel_stride, pixel_stride, inside - w));
      fill_zero(to + before + w, region.row - before - w);
    }
  }
}

// One row of a result: the addresses that group g writes its steps to, from pixel (h, w) on.
template <class T, class A = Accumulator<T>>
struct ResultRow {
  T* data;
  int64_t step, lane;  // strides: from step to step, from lane to lane
  int64_t whole;       // steps whose elements are contiguous
  int64_t count;       // lanes that exist, from the first step's first one on,
  int64_t lanes_used;  // and how many of them a step uses up

  MRDA_MEMBER ResultRow(const RdaConvParams& p, const View& view, int64_t b, int64_t g, int64_t h, int64_t w) {
    constexpr int64_t L = kLanes<A>;
    data = static_cast<T*>(view.data) + b * view.stride[0] + h * view.stride[2] + w * view.stride[3];
    data += g * view.stride[1] * (p.channels_last ? L : 1);
    step = p.channels_last ? view.stride[3] : view.stride[3] * L;
    lane = p.channels_last ? view.stride[1] : view.stride[3];
    count = p.channels_last ? p.channels - g * L : p.width - w;
    lanes_used = p.channels_last ? 0 : L;
    whole = lane != 1 ? 0 : !p.channels_last ? count / L : count >= L ? p.width : 0;
  }
  MRDA_MEMBER void write(int64_t s, Vec<A> value) const {
    if (s < whole) store_whole(data + s * step, value);
    else store_elements(data + s * step, lane, count - s * lanes_used, value);
  }
};

// The dynamic kernels of one sample: each tap of a group is a number, or a register.
template <class A>
struct TapWeights {
  const A* data;
  bool channels_last;
  int64_t taps;

  MRDA_MEMBER Vec<A> operator()(int64_t g, int64_t tap) const {
    return channels_last ? load(data + (g * taps + tap) * kLanes<A>) : splat(data[g * taps + tap]);
  }
  // The taps of a group, in registers; in reverse order if `flip`.
  template <int K>
  MRDA_MEMBER void get(int64_t g, bool flip, Vec<A>* to) const {
    const int64_t n = K == kAnyKernelSize ? taps : K * K;
#pragma GCC unroll 9
    for (int64_t i = 0; i < n; ++i) to[i] = (*this)(g, flip ? n - 1 - i : i);
  }
  MRDA_MEMBER static int64_t elements(const Geometry<A>& geometry) {
    return geometry.padded_channels * geometry.kernel_size * geometry.kernel_size;
  }
};

template <class T, class A = Accumulator<T>>
static TapWeights<A> pack_weight(const RdaConvParams& p, int64_t b, const Geometry<A>& geometry, A* to) {
  constexpr int64_t L = kLanes<A>;
  const int64_t taps = int64_t(p.kernel_size) * p.kernel_size;
  const T* from = static_cast<const T*>(p.weight) + b * p.channels * taps;
  if (geometry.channels_last) {
    for (int64_t c = 0; c < geometry.padded_channels; ++c)
      for (int64_t tap = 0; tap < taps; ++tap)
        to[(c / L * taps + tap) * L + c % L] = c < p.channels ? load_scalar(from + c * taps + tap) : A(0);
  } else {
    for (int64_t i = 0; i < p.channels * taps; ++i) to[i] = load_scalar(from + i);
  }
  return {to, geometry.channels_last, taps};
}

// sum_ij weight[ij] * x[i, j], for the taps whose first one is at `x`.
template <int K, bool kChannelsLast, class A>
MRDA_INLINE Vec<A> correlate(const Region<A>& region, const A* x, const Vec<A>* weight, int64_t kernel_size) {
  const int64_t row = region.row, tap = kChannelsLast ? region.tap : 1;
  const int64_t k = K == kAnyKernelSize ? kernel_size : K;
  Vec<A> sum{};
#pragma GCC unroll 3
  for (int64_t i = 0; i < k; ++i) {
    Vec<A> part = weight[i * k] * load(x + i * row);  // a sum per row: shorter chains of dependent operations
#pragma GCC unroll 2
    for (int64_t j = 1; j < k; ++j) part = add_tap(part, weight[i * k + j], load(x + i * row + j * tap));
    sum += part;
  }
  return sum;
}

// Three numbers below one another.
template <class A>
struct Column {
  Vec<A> top, middle, bottom;
  MRDA_MEMBER Column(const A* first, int64_t row)
      : top(load(first)), middle(load(first + row)), bottom(load(first + 2 * row)) {}
  // The sum of its products with one column of 3x3 weights.
  MRDA_MEMBER Vec<A> dot(const Vec<A>* weight) const {
    return add_tap(add_tap(weight[0] * top, weight[3], middle), weight[6], bottom);
  }
};

// The same sum around the pixel at `center`, of some of the taps.
template <class A>
MRDA_INLINE Vec<A> correlate_inside(const Region<A>& region, const A* center, TapWeights<A> weight, int64_t g,
                                    int64_t k, TapRange rows, TapRange columns) {
  Vec<A> sum{};
  for (int64_t i = rows.first; i < rows.last; ++i)
    for (int64_t j = columns.first; j < columns.last; ++j)
      sum = add_tap(sum, weight(g, i * k + j), load(center + (i - k / 2) * region.row + (j - k / 2) * region.tap));
  return sum;
}

template <int K>
constexpr int kMaxTaps = K == kAnyKernelSize ? 49 : K * K;

// A bump allocator for scratch memory; without memory it only counts.
template <class A>
struct Bump {
  A* base;
  int64_t used = 0;
  MRDA_MEMBER A* take(int64_t n) {
    A* p = base ? base + used : nullptr;
    used += round_up(n, 64 / int64_t(sizeof(A)));
    return p;
  }
};

// The division of a call into tasks, each a run of consecutive tiles of one sample. It depends on the shape alone,
// never on the number of threads, and so do the results, to the last bit.
struct Cut {
  int64_t tile_rows, tile_columns, tasks_per_sample;
  MRDA_MEMBER int64_t tiles() const { return tile_rows * tile_columns; }
  MRDA_MEMBER int64_t first_tile(int64_t task) const { return tiles() * task / tasks_per_sample; }
  template <class A>
  MRDA_MEMBER Position position(const Geometry<A>& geometry, int64_t sample, int64_t tile) const {
    return {sample, tile / tile_columns * geometry.tile_height, tile % tile_columns * geometry.tile_width};
  }
};

template <class A>
MRDA_INLINE Cut cut(const RdaConvParams& p, const Geometry<A>& geometry) {
  Cut c;
  c.tile_rows = ceil_div(p.height, geometry.tile_height);
  c.tile_columns = ceil_div(p.width, geometry.tile_width);
  const int64_t wanted = ceil_div(128, p.batch);  // enough for many threads
  c.tasks_per_sample = minimum(c.tiles(), wanted);
  return c;
}

}  // namespace MRDA_ISA
}  // namespace mrda
