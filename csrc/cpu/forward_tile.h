// SPDX-License-Identifier: Apache-2.0
// One tile of the RDA convolution's forward.
#pragma once

#include "mask.h"

namespace mrda {
namespace MRDA_ISA {

// Chosen by measurement: the scratch memory should fit the L2 cache, and contiguous runs should be long.
constexpr int64_t kForwardScratchBytes = 512 << 10;
constexpr int64_t kTileHeight = 16, kTileWidth = 320, kTileWidthChannelsLast = 64;

template <class A>
struct ForwardBuffers {
  A *weight, *x, *mask;
};

template <class T, class A = Accumulator<T>>
struct ForwardCall {
  Geometry<A> geometry;
  ForwardBuffers<A> buffer;
  MaskWeights<A> mask_weights;
  int64_t scratch_bytes;

  static ForwardCall at(const RdaConvForward& p, Geometry<A> geometry, A* memory) {
    Bump<A> scratch{memory};
    ForwardCall call{geometry, {}, pack_mask<T>(p, geometry, false, scratch), 0};
    call.buffer.weight = scratch.take(TapWeights<A>::elements(geometry));
    call.buffer.x = scratch.take(geometry.region_elements(geometry.pad));
    call.buffer.mask = scratch.take(mask_elements(p, geometry, 0));
    call.scratch_bytes = scratch.used * int64_t(sizeof(A));
    return call;
  }

  static ForwardCall make(const RdaConvForward& p, void* memory) {
    Geometry<A> geometry(p, p.channels_last ? kTileWidthChannelsLast : kTileWidth, p.kernel_size / 2);
    geometry.tile_height = minimum(p.height, kTileHeight);
    while (geometry.tile_height > 1 && at(p, geometry, nullptr).scratch_bytes > kForwardScratchBytes) --geometry.tile_height;
    return at(p, geometry, static_cast<A*>(memory));
  }
};

// The sums of 3x3 taps for neighbouring pixels of a row, whose first tap is at `corner`: each number is loaded once for
// the three that need it.
template <int kPixels, class A>
MRDA_INLINE void correlate_pixels(const A* corner, int64_t row, int64_t tap, const A* weight, Vec<A>* sum) {
  constexpr int64_t L = kLanes<A>;
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i, corner += row, weight += 3 * L) {
    const Vec<A> left = load(weight), middle = load(weight + L), right = load(weight + 2 * L);
#pragma GCC unroll 8
    for (int j = 0; j < kPixels + 2; ++j) {
      const Vec<A> x = load(corner + j * tap);
      if (j < kPixels) sum[j] = i == 0 ? left * x : add_tap(sum[j], left, x);
      if (j >= 1 && j <= kPixels) sum[j - 1] = add_tap(sum[j - 1], middle, x);
      if (j >= 2) sum[j - 2] = add_tap(sum[j - 2], right, x);
    }
  }
}

// The steps of a row all of whose taps are in memory; the others have taps outside the image, where there are no zeros.
struct WholeSteps {
  int64_t first, last;
  WholeSteps(const RdaConvParams& p, TapRange tap_rows, int64_t left, int64_t steps, bool direct) : first(0), last(steps) {
    if (!direct) return;
    const int64_t pad = p.kernel_size / 2;
    first = tap_rows.whole(p.kernel_size) ? minimum(maximum(pad - left, int64_t(0)), steps) : steps;
    last = maximum(minimum(p.width - pad - left, steps), first);
  }
};

// 3x3 taps, registers of channels, and a result whose registers lie in one piece: some pixels of a row are finished in
// all channels before the next ones, so that memory is read and written in its order.
template <bool kMasked, class T, class A = Accumulator<T>>
static void forward_pixels(const RdaConvForward& p, const ForwardCall<T>& call, TapWeights<A> weight, Position tile,
                           int64_t rows, int64_t steps, Region<A> x, Region<A> mask, bool direct) {
  constexpr int kPixels = 4;  // as many sums as registers suffice for
  constexpr int64_t L = kLanes<A>, kTaps = 9 * L, kRegistersPerLine = maximum(kLineBytes / kVectorBytes, int64_t(1));
  const auto [b, top, left] = tile;
  const int64_t groups = call.geometry.groups, pixel = p.output.stride[3];
  const Slopes<Vec<A>> slopes{splat(A(p.negative_slope)), splat(A(p.output_negative_slope))};
  mask.rows = 1;
  for (int64_t r = 0; r < rows; ++r, x.data += x.row) {
    if (kMasked) compute_mask(call.geometry, call.mask_weights, x, mask);
    T* const output = reinterpret_cast<T*>(address<T>(p.output, tile, r));
    const auto finish = [&](int64_t g, int64_t s, Vec<A> z) {
      if constexpr (kMasked) z = apply_mask(z, load(mask.at(g, 0, s)), load(x.at(g, 0, s)), slopes);
      else z = leaky_relu(z, slopes.inner);
      store_whole(output + s * pixel + g * L, z);
    };
    const TapRange tap_rows(top + r, p.height, 3);
    const auto [first, last] = WholeSteps(p, tap_rows, left, steps, direct);
    int64_t s = first;
    for (; s + kPixels <= last; s += kPixels) {
      const A* corner = x.at(0, 0, s) - x.row - x.tap;
      for (int64_t g = 0; g < groups; ++g, corner += x.group) {
        if (direct && g % kRegistersPerLine == 0)  // the row that the next one needs first
#pragma GCC unroll 8
          for (int i = 1; i <= kPixels; ++i)
            prefetch(reinterpret_cast<uintptr_t>(corner) + uintptr_t((3 * x.row + i * x.tap) * int64_t(sizeof(A))));
        Vec<A> sum[kPixels];
        correlate_pixels<kPixels>(corner, x.row, x.tap, weight.data + g * kTaps, sum);
#pragma GCC unroll 8
        for (int i = 0; i < kPixels; ++i) finish(g, s + i, sum[i]);
      }
    }
    for (; s < last; ++s)
      for (int64_t g = 0; g < groups; ++g) {
        Vec<A> sum;
        correlate_pixels<1>(x.at(g, 0, s) - x.row - x.tap, x.row, x.tap, weight.data + g * kTaps, &sum);
        finish(g, s, sum);
      }
    for (s = 0; s < steps; ++s) {
      if (s == first) s = last;
      if (s >= steps) break;
      const TapRange tap_columns(left + s, p.width, 3);
      for (int64_t g = 0; g < groups; ++g)
        finish(g, s, correlate_inside(x, x.at(g, 0, s), weight, g, 3, tap_rows, tap_columns));
    }
  }
}

// Computes the pixels of one tile that are `rows` rows and `columns` columns, at most the geometry's and all inside the
// image; meanwhile prefetches the input of the next one.
template <int K, bool kChannelsLast, class T, class A = Accumulator<T>>
static void forward_tile(const RdaConvForward& p, const ForwardCall<T>& call, TapWeights<A> weight, Position tile,
                         int64_t rows, int64_t columns, Position next) {
  const Geometry<A>& geometry = call.geometry;
  const auto [b, top, left] = tile;
  const int64_t steps = geometry.steps(columns);
  const int64_t pad = geometry.pad, kernel_size = geometry.kernel_size;
  const bool direct = kChannelsLast && readable_in_place<T>(p, p.input);
  Region<A> x;  // the tile itself; its neighbours are in memory too, or outside the image
  if (direct) {
    x = in_place<T>(p.input, tile, rows, steps);
  } else {
    Region<A> packed = geometry.region(call.buffer.x, pad);
    packed.rows = rows + 2 * pad;
    pack<T>(p, p.input, b, top - pad, left - pad, geometry, packed);
    x = packed.inner(pad, rows, steps);
  }
  const int64_t to_first_tap = -pad * (x.row + (kChannelsLast ? x.tap : 1));

  const bool masked = p.mask_channels > 0;
  Region<A> mask{};
  if (masked) {
    mask = mask_region(p, geometry, call.buffer.mask, 0);
    mask.rows = rows;
    mask.steps = steps;
  }

  if constexpr (K == 3 && kChannelsLast && kVectorBytes < 64) {  // wider ones lie in whole lines as it is
    if (p.output.stride[1] == 1 && p.channels % kLanes<A> == 0) {
      const auto pixels = masked ? forward_pixels<true, T> : forward_pixels<false, T>;
      return pixels(p, call, weight, tile, rows, steps, x, mask, direct);
    }
  }
  if (masked) compute_mask(geometry, call.mask_weights, x, mask);

  const Slopes<Vec<A>> slopes{splat(A(p.negative_slope)), splat(A(p.output_negative_slope))};
  for (int64_t g = 0; g < geometry.groups; ++g) {
    Vec<A> taps[kMaxTaps<K>];
    weight.template get<K>(g, false, taps);
    for (int64_t r = 0; r < rows; ++r) {
      const ResultRow<T> out(p, p.output, b, g, top + r, left);
      const int64_t group_bytes = kChannelsLast ? steps * kLineBytes : p.input.stride[1] * int64_t(sizeof(T));
      const uintptr_t soon = address<T>(p.input, next, r) + uintptr_t(g * group_bytes);
      const auto finish = [&](int64_t s, Vec<A> z, Vec<A> center) {
        out.write(s, masked ? apply_mask(z, load(mask.at(g, r, s)), center, slopes) : leaky_relu(z, slopes.inner));
      };
      const TapRange tap_rows(top + r, p.height, kernel_size);
      const auto [first, last] = WholeSteps(p, tap_rows, left, steps, direct);
      if constexpr (K == 3 && kChannelsLast && kVectorBytes == 64) {
        // With 32 registers each number is loaded once for the three pixels of a row that need it.
        const A* next_column = x.at(g, r, first) + to_first_tap + 2 * x.tap;
        if (first < last) {
          Column<A> left_one(next_column - 2 * x.tap, x.row), middle(next_column - x.tap, x.row);
          for (int64_t s = first; s < last; ++s, next_column += x.tap) {
            prefetch(soon + uintptr_t(s * kLineBytes));
            const Column<A> right(next_column, x.row);
            finish(s, left_one.dot(taps) + middle.dot(taps + 1) + right.dot(taps + 2), middle.middle);
            left_one = middle;
            middle = right;
          }
        }
      } else {
        for (int64_t s = first; s < last; ++s) {
          prefetch(soon + uintptr_t(s * kLineBytes));
          finish(s, correlate<K, kChannelsLast>(x, x.at(g, r, s) + to_first_tap, taps, kernel_size),
                 load(x.at(g, r, s)));
        }
      }
      for (int64_t s = 0; s < steps; ++s) {
        if (s == first) s = last;
        if (s >= steps) break;
        const TapRange tap_columns(left + s, p.width, kernel_size);
        finish(s, correlate_inside(x, x.at(g, r, s), weight, g, kernel_size, tap_rows, tap_columns),
               load(x.at(g, r, s)));
      }
    }
  }
}

}  // namespace MRDA_ISA
}  // namespace mrda
