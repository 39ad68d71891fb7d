// SPDX-License-Identifier: Apache-2.0
// The operator's two convolutions, on rows in shared memory: the dynamic K x K one, and the 1x1 one of the mask.
//
// The dynamic convolution takes one row at a time: a row of results is complete as soon as the K / 2 rows below it are
// there. For K = 3 a thread keeps its taps in registers, loads each row once and adds it to the three results that it
// is part of. For any other K, taps and rows are read from shared memory, with one pixel per thread.
#pragma once

#include "dispatch.cuh"
#include "tile.cuh"

namespace mrda {
namespace gpu {

template <int K>
constexpr int kPixelsPerThread = K == 3 ? 2 : 1;

template <int K>
__host__ __device__ int kernel_size(const RdaConvParams& p) {
  return K == kAnyKernelSize ? p.kernel_size : K;
}

// The dynamic kernels of a thread's V channels.
template <class T, int K, int V>
struct Taps {
  static_assert(K == 3, "");
  using A = Accumulator<T>;
  A weight[9][V];

  __host__ __device__ static int shared_elements(const Tiling&, int) { return 0; }

  __device__ Taps(const RdaConvParams& p, const Tiling&, const BlockTile& block, int channel, A*) {
    const T* from = static_cast<const T*>(p.weight) + (block.sample * p.channels + block.first_channel + channel) * 9;
#pragma unroll
    for (int v = 0; v < V; ++v)
#pragma unroll
      for (int n = 0; n < 9; ++n) weight[n][v] = channel + v < block.channels ? widen(from[v * 9 + n]) : A(0);
  }
};

template <class T, int V>
struct Taps<T, kAnyKernelSize, V> {
  using A = Accumulator<T>;
  const A* weight;  // [tap][channel], from the thread's first channel on
  int channels, kernel_size;

  __host__ __device__ static int shared_elements(const Tiling& tiling, int kernel_size) {
    return kernel_size * kernel_size * tiling.channels();
  }

  // The whole block fills `shared`; a barrier has to follow.
  __device__ Taps(const RdaConvParams& p, const Tiling& tiling, const BlockTile& block, int channel, A* shared)
      : weight(shared + channel), channels(tiling.channels()), kernel_size(p.kernel_size) {
    const int taps = kernel_size * kernel_size;
    const T* from = static_cast<const T*>(p.weight) + (block.sample * p.channels + block.first_channel) * taps;
    for (int i = int(threadIdx.x); i < taps << tiling.channels_log2; i += int(blockDim.x)) {
      const int tap = i >> tiling.channels_log2, c = i & (channels - 1);
      shared[i] = c < block.channels ? widen(from[c * taps + tap]) : A(0);
    }
  }
};

// Correlation of a thread's P pixels with its taps; with kFlip, with the taps rotated by 180 degrees, which is the
// gradient with respect to the input.
template <class T, int K, int P, int V, bool kFlip>
struct Correlation {
  static_assert(K == 3, "");
  using A = Accumulator<T>;
  A pending[2][P][V] = {};  // the sums of the next two rows, as far as their rows have come

  // Takes row k of the ring buffer and gives the complete sums of the row above it. `offset` is where in a row the
  // thread's first channel of its first pixel's leftmost tap is.
  template <class E, int kStages>
  __device__ void push(const Taps<T, K, V>& taps, const RingBuffer<E, kStages>& ring, int k, int offset,
                       A (&sum)[P][V]) {
    const E* row = ring.row(k) + offset;
#pragma unroll
    for (int p = 0; p < P; ++p)
#pragma unroll
      for (int v = 0; v < V; ++v) {
        sum[p][v] = pending[0][p][v];
        pending[0][p][v] = pending[1][p][v];
        pending[1][p][v] = A(0);
      }
#pragma unroll
    for (int column = 0; column < P + 2; ++column) {
      A x[V];
      load<V>(row + column * ring.pitch, x);
#pragma unroll
      for (int p = 0; p < P; ++p) {
        const int j = column - p;  // the tap's column
        if (j < 0 || j > 2) continue;
#pragma unroll
        for (int v = 0; v < V; ++v) {
          sum[p][v] = add_tap(sum[p][v], taps.weight[kFlip ? 2 - j : 6 + j][v], x[v]);
          pending[0][p][v] = add_tap(pending[0][p][v], taps.weight[kFlip ? 5 - j : 3 + j][v], x[v]);
          pending[1][p][v] = add_tap(pending[1][p][v], taps.weight[kFlip ? 8 - j : j][v], x[v]);
        }
      }
    }
  }
};

template <class T, int V, bool kFlip>
struct Correlation<T, kAnyKernelSize, 1, V, kFlip> {
  using A = Accumulator<T>;

  // The same for any K. Rows k - K + 1 to k are in the ring buffer.
  template <class E, int kStages>
  __device__ void push(const Taps<T, kAnyKernelSize, V>& taps, const RingBuffer<E, kStages>& ring, int k, int offset,
                       A (&sum)[1][V]) {
    const int size = taps.kernel_size;
#pragma unroll
    for (int v = 0; v < V; ++v) sum[0][v] = A(0);
    for (int i = 0; i < size; ++i) {
      const E* row = ring.row(k - size + 1 + i) + offset;
      for (int j = 0; j < size; ++j) {
        const int tap = i * size + j;
        A x[V], w[V];
        load<V>(row + j * ring.pitch, x);
        load<V>(taps.weight + (kFlip ? size * size - 1 - tap : tap) * taps.channels, w);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[0][v] = add_tap(sum[0][v], w[v], x[v]);
      }
    }
  }
};

// Gradient of the taps, summed over the pixels of a tile: grad_z of a pixel times the input under each of its taps.
template <class T, int K, int P, int V>
struct WeightGrad {  // K = 3: each thread sums over its own columns, in registers
  static_assert(K == 3, "");
  using A = Accumulator<T>;
  A sum[9][V] = {};

  __host__ __device__ static int shared_elements(const Tiling&, int) { return 0; }
  __device__ WeightGrad(const Tiling&, int, A*) {}

  // Adds a row of pixels, whose taps are in rows k - 2 to k of the input. Pixels for which counts(p) is false are left
  // out: what is in memory under their taps may be anything, even NaN.
  template <int kStages, class Counts>
  __device__ void add(const RingBuffer<T, kStages>& input, int k, int offset, const A (&grad_z)[P][V], Counts counts) {
#pragma unroll
    for (int i = 0; i < 3; ++i)
#pragma unroll
      for (int column = 0; column < P + 2; ++column) {
        A x[V];
        load<V>(input.row(k - 2 + i) + offset + column * input.pitch, x);
#pragma unroll
        for (int p = 0; p < P; ++p) {
          const int j = column - p;  // the tap's column
          if (j < 0 || j > 2 || !counts(p)) continue;
#pragma unroll
          for (int v = 0; v < V; ++v) sum[i * 3 + j][v] = add_tap(sum[i * 3 + j][v], grad_z[p][v], x[v]);
        }
      }
  }
};

template <class T, int V>
struct WeightGrad<T, kAnyKernelSize, 1, V> {  // each thread sums some taps and channels over all columns
  using A = Accumulator<T>;
  A* sum;  // [tap][channel], in shared memory
  int channels_log2, kernel_size;

  __host__ __device__ static int shared_elements(const Tiling& tiling, int kernel_size) {
    return kernel_size * kernel_size << tiling.channels_log2;
  }
  __device__ WeightGrad(const Tiling& tiling, int kernel_size, A* shared)
      : sum(shared), channels_log2(tiling.channels_log2), kernel_size(kernel_size) {
    for (int i = int(threadIdx.x); i < kernel_size * kernel_size << channels_log2; i += int(blockDim.x)) sum[i] = A(0);
  }

  // Adds pixels `first` to `last` - 1 of row k of grad_z, whose taps are in rows k - K + 1 to k of the input.
  template <int kStages, int kGradStages>
  __device__ void add(const RingBuffer<T, kStages>& input, int k, const RingBuffer<A, kGradStages>& grad_z, int first,
                      int last) {
    for (int i = int(threadIdx.x); i < kernel_size * kernel_size << channels_log2; i += int(blockDim.x)) {
      const int tap = i >> channels_log2, channel = i & ((1 << channels_log2) - 1);
      const int shift = tap % kernel_size - kernel_size / 2;  // columns from a pixel to its tap
      const T* x = input.row(k - kernel_size + 1 + tap / kernel_size) + shift * input.pitch + channel;
      const A* grad = grad_z.row(k) + channel;
      A row_sum = A(0);
      for (int pixel = first; pixel < last; ++pixel)
        row_sum = add_tap(row_sum, grad[pixel * grad_z.pitch], widen(x[pixel * input.pitch]));
      sum[i] += row_sum;
    }
  }
};

// The weights of the mask's 1x1 convolution for a chunk's channels. The whole block fills `shared`; a barrier has to
// follow.
template <class T>
__device__ __forceinline__ void load_mask_weight(const RdaConvParams& p, const Tiling& tiling, const BlockTile& block,
                                                 Accumulator<T>* shared) {
  const T* from = static_cast<const T*>(p.mask_weight);
  for (int c = int(threadIdx.x); c < tiling.channels(); c += int(blockDim.x))
    shared[c] = c < block.channels ? widen(from[c]) : Accumulator<T>(0);
}

template <class T>
__device__ __forceinline__ Accumulator<T> load_mask_bias(const RdaConvParams& p) {
  return p.mask_bias ? widen(*static_cast<const T*>(p.mask_bias)) : Accumulator<T>(0);
}

// The mask's 1x1 convolution at a thread's P pixels, without the bias. All lanes of the warp have to call it.
template <int P, int V, class A>
__device__ __forceinline__ void mask_convolution(const A (&mask_weight)[V], const A (&x)[P][V], int lanes_log2,
                                                 A (&mask_logit)[P]) {
#pragma unroll
  for (int p = 0; p < P; ++p) {
    mask_logit[p] = A(0);
#pragma unroll
    for (int v = 0; v < V; ++v) mask_logit[p] = add_tap(mask_logit[p], mask_weight[v], x[p][v]);
  }
  warp_sum(mask_logit, lanes_log2);
}

}  // namespace gpu
}  // namespace mrda
