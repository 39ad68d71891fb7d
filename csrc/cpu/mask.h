// SPDX-License-Identifier: Apache-2.0
// The mask sigmoid(mask_weight . x + mask_bias) over a tile: one plane that all channels share (M = 1), or a full
// matrix product (M = C).
#pragma once

#include "tile.h"

namespace mrda {
namespace MRDA_ISA {

// A matrix over channels. Lanes along the width: matrix[out * channels + in]; lanes along the channels, where a
// register holds neighbouring outputs: matrix[in * padded_channels + out], padded with zeros.
template <class A>
struct ChannelMatrix {
  const A* data;
  const A* bias;  // null for none
};

template <class A>
MRDA_INLINE int64_t channel_matrix_elements(const Geometry<A>& geometry) {
  return geometry.padded_channels * geometry.padded_channels;
}

template <class T, class A = Accumulator<T>>
static void pack_channel_matrix(const RdaConvParams& p, const Geometry<A>& geometry, bool transposed, A* to) {
  const T* from = static_cast<const T*>(p.mask_weight);
  fill_zero(to, channel_matrix_elements(geometry));
  const int64_t pitch = geometry.channels_last ? geometry.padded_channels : p.channels;
  const bool swap = transposed != geometry.channels_last;
  for (int64_t m = 0; m < p.channels; ++m)
    for (int64_t c = 0; c < p.channels; ++c)
      to[swap ? c * pitch + m : m * pitch + c] = load_scalar(from + m * p.channels + c);
}

// out = matrix . in + bias; out += matrix . in if kAdd.
template <bool kAdd, class A>
static void mix_channels(const Geometry<A>& geometry, Region<A> in, ChannelMatrix<A> matrix, Region<A> out) {
  constexpr int64_t L = kLanes<A>;
  constexpr int kBlock = 4;
  const bool channels_last = geometry.channels_last;
  for (int64_t r = 0; r < out.rows; ++r) {
    for (int64_t s = 0; s < out.steps; ++s) {
      for (int64_t g = 0; g < geometry.groups; g += kBlock) {
        const int64_t block = minimum(int64_t(kBlock), geometry.groups - g);
        Vec<A> sum[kBlock];
        for (int64_t i = 0; i < kBlock; ++i) {
          sum[i] = Vec<A>{};
          if (i >= block) continue;
          if (kAdd) sum[i] = load(out.at(g + i, r, s));
          else if (matrix.bias) sum[i] = channels_last ? load(matrix.bias + (g + i) * L) : splat(matrix.bias[g + i]);
        }
        for (int64_t c = 0; c < geometry.channels; ++c) {
          if (channels_last) {
            const Vec<A> x = splat(in.channel(c, r, s));
            for (int64_t i = 0; i < block; ++i)
              sum[i] += x * load(matrix.data + c * geometry.padded_channels + (g + i) * L);
          } else {
            const Vec<A> x = load(in.at(c, r, s));
            for (int64_t i = 0; i < block; ++i) sum[i] += x * matrix.data[(g + i) * geometry.channels + c];
          }
        }
        for (int64_t i = 0; i < block; ++i) store(out.at(g + i, r, s), sum[i]);
      }
    }
  }
}

// The weights of the mask, as a tile's computation takes them.
template <class A>
struct MaskWeights {
  int64_t count;              // M; 0 for none
  ChannelMatrix<A> forward;   // M = 1: a vector over the channels
  ChannelMatrix<A> backward;  // its transpose, if M = C and the caller asked for it

  static MRDA_MEMBER bool full(const RdaConvParams& p) { return p.mask_channels > 1; }
};

template <class T, class A = Accumulator<T>>
static MaskWeights<A> pack_mask(const RdaConvParams& p, const Geometry<A>& geometry, bool backward, Bump<A>& scratch) {
  MaskWeights<A> mask{p.mask_channels, {nullptr, nullptr}, {nullptr, nullptr}};
  if (!mask.count) return mask;
  const int64_t rows = MaskWeights<A>::full(p) ? geometry.padded_channels : 1;
  A* matrix = scratch.take(rows * geometry.padded_channels);
  A* bias = scratch.take(rows);
  A* transpose = MaskWeights<A>::full(p) && backward ? scratch.take(channel_matrix_elements(geometry)) : nullptr;
  if (!matrix) return mask;  // only counting memory

  fill_zero(bias, rows);
  for (int64_t m = 0; p.mask_bias && m < p.mask_channels; ++m)
    bias[m] = load_scalar(static_cast<const T*>(p.mask_bias) + m);
  if (MaskWeights<A>::full(p)) {
    pack_channel_matrix<T>(p, geometry, false, matrix);
    if (transpose) pack_channel_matrix<T>(p, geometry, true, transpose);
  } else {
    fill_zero(matrix, geometry.padded_channels);
    for (int64_t c = 0; c < p.channels; ++c) matrix[c] = load_scalar(static_cast<const T*>(p.mask_weight) + c);
  }
  mask.forward = {matrix, bias};
  mask.backward = {transpose, nullptr};
  return mask;
}

template <class A>
MRDA_INLINE int64_t mask_elements(const RdaConvParams& p, const Geometry<A>& geometry, int64_t halo) {
  if (!p.mask_channels) return 0;
  return MaskWeights<A>::full(p) ? geometry.region_elements(halo) : geometry.shared_elements(halo);
}

template <class A>
MRDA_INLINE Region<A> mask_region(const RdaConvParams& p, const Geometry<A>& geometry, A* data, int64_t halo) {
  return MaskWeights<A>::full(p) ? geometry.region(data, halo) : geometry.shared_region(data, halo);
}

// sum_c weight[c] * x[c] at neighbouring steps of a tile whose lanes are channels: sums that do not wait for each other.
template <int kSteps, class A>
MRDA_INLINE void dot_channels(const Geometry<A>& geometry, Region<A> x, const A* weight, int64_t r, int64_t s, A* to) {
  Vec<A> sum[kSteps] = {};
  for (int64_t g = 0; g < geometry.groups; ++g) {
    const Vec<A> w = load(weight + g * kLanes<A>);
#pragma GCC unroll 4
    for (int i = 0; i < kSteps; ++i) sum[i] += w * load(x.at(g, r, s + i));
  }
#pragma GCC unroll 4
  for (int i = 0; i < kSteps; ++i) to[i] = horizontal_sum<A>(sum[i]);
}

// mask = sigmoid(mask_weight . x + mask_bias) at every step of `mask`; `x` is the region of the same extent.
template <class A>
static void compute_mask(const Geometry<A>& geometry, const MaskWeights<A>& weights, Region<A> x, Region<A> mask) {
  constexpr int64_t L = kLanes<A>;
  if (weights.count > 1) {
    mix_channels<false>(geometry, x, weights.forward, mask);
    for (int64_t g = 0; g < geometry.groups; ++g)
      for (int64_t r = 0; r < mask.rows; ++r)
        for (int64_t s = 0; s < mask.steps; ++s) store(mask.at(g, r, s), sigmoid<A>(load(mask.at(g, r, s))));
    return;
  }
  const A bias = weights.forward.bias[0];
  const A* weight = weights.forward.data;
  for (int64_t r = 0; r < mask.rows; ++r) {
    if (geometry.channels_last) {
      // All sums, then one sigmoid for a register full of pixels: nothing waits for what came just before.
      constexpr int64_t kAtOnce = 64;
      for (int64_t first = 0; first < mask.steps; first += kAtOnce) {
        A logits[kAtOnce];
        const int64_t count = minimum(kAtOnce, mask.steps - first);
        int64_t s = 0;
        for (; s + 4 <= count; s += 4) dot_channels<4>(geometry, x, weight, r, first + s, logits + s);
        for (; s < count; ++s) dot_channels<1>(geometry, x, weight, r, first + s, logits + s);
        for (s = 0; s < count; s += L) store(logits + s, sigmoid<A>(load(logits + s) + bias));
        for (s = 0; s < count; ++s) store(mask.at(0, r, first + s), splat(logits[s]));
      }
    } else {
      constexpr int kBlock = 4;
      for (int64_t s = 0; s < mask.steps; s += kBlock) {
        const int64_t n = minimum(int64_t(kBlock), mask.steps - s);
        Vec<A> sum[kBlock];
        for (int i = 0; i < kBlock; ++i) sum[i] = splat(bias);
        for (int64_t c = 0; c < geometry.channels; ++c) {
          const A* row = x.at(c, r, s);
          if (n == kBlock) {
            for (int i = 0; i < kBlock; ++i) sum[i] += load(row + i * L) * weight[c];
          } else {
            for (int64_t i = 0; i < n; ++i) sum[i] += load(row + i * L) * weight[c];
          }
        }
        for (int64_t i = 0; i < n; ++i) store(mask.at(0, r, s + i), sigmoid<A>(sum[i]));
      }
    }
  }
}

}  // namespace MRDA_ISA
}  // namespace mrda
