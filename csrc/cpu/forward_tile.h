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
    compute_mask(geometry, call.mask_weights, x, mask);
  }

  const Slopes<Vec<A>> slopes{splat(A(p.negative_slope)), splat(A(p.output_negative_slope))};
  for (int64_t g = 0; g < geometry.groups; ++g) {
    Vec<A> taps[kMaxTaps<K>];
    weight.template get<K>(g, false, taps);
    for (int64_t r = 0; r < rows; ++r) {
      const ResultRow<T> out(p, p.output, b, g, top + r, left);
      const int64_t group_bytes = kChannelsLast ? steps * kLineBytes : p.input.stride[1] * int64_t(sizeof(T));
      const uintptr_t soon = address<T>(p.input, next, r) + uintptr_t(g * group_bytes);
      const auto finish = [&](int64_t s, Vec<A> z) {
        out.write(s, masked ? apply_mask(z, load(mask.at(g, r, s)), load(x.at(g, r, s)), slopes) : z);
      };
      // Steps before `first` and from `last` on have taps outside the image, where there are no zeros in memory.
      const TapRange tap_rows(top + r, p.height, kernel_size);
      int64_t first = 0, last = steps;
      if (direct) {
        first = tap_rows.whole(kernel_size) ? minimum(maximum(pad - left, int64_t(0)), steps) : steps;
        last = maximum(minimum(p.width - pad - left, steps), first);
      }
      if constexpr (K == 3) {
        // Three pointers, one for each row of taps, and one stride: as many registers as there are.
        const A* corner = x.at(g, r, first) + to_first_tap;
        for (int64_t s = first; s < last; ++s, corner += x.step) {
          prefetch(soon + uintptr_t(s * kLineBytes));
          finish(s, correlate3(corner, keep(corner + x.row), keep(corner + 2 * x.row), kChannelsLast ? x.tap : 1, taps));
        }
      } else {
        for (int64_t s = first; s < last; ++s) {
          prefetch(soon + uintptr_t(s * kLineBytes));
          finish(s, correlate<K, kChannelsLast>(x, x.at(g, r, s) + to_first_tap, taps, kernel_size));
        }
      }
      for (int64_t s = 0; s < steps; ++s) {
        if (s == first) s = last;
        if (s >= steps) break;
        const TapRange tap_columns(left + s, p.width, kernel_size);
        finish(s, correlate_inside(x, x.at(g, r, s), weight, g, kernel_size, tap_rows, tap_columns));
      }
    }
  }
}

}  // namespace MRDA_ISA
}  // namespace mrda
