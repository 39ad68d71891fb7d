// The correlation of rows in shared memory with the dynamic kernels, a row at a time: as soon as `K / 2` rows below it
// are known, a row of results is.
//
// Two ways. K = 3: a thread's taps are in registers, and each row is loaded once and added to the three results that
// it is part of. Any other K, K = 0 here: taps and rows are read from shared memory, for one pixel a thread.
#pragma once

#include "strip.cuh"

namespace mrda {
namespace gpu {

template <int K>
constexpr int kPixels = K == 3 ? 2 : 1;  // of a thread

// The kernels of a thread's V channels.
template <class T, int K, int V>
struct Taps {
  static_assert(K == 3, "");
  using A = Accumulator<T>;
  A weight[9][V];

  __host__ __device__ static int64_t bytes(const Plan&, int) { return 0; }

  __device__ Taps(const RdaConvParams& p, const Plan&, const Place& place, int channel, void*) {
    const T* from = static_cast<const T*>(p.weight) + (place.sample * p.channels + place.first_channel + channel) * 9;
#pragma unroll
    for (int v = 0; v < V; ++v)
#pragma unroll
      for (int n = 0; n < 9; ++n) weight[n][v] = channel + v < place.channels ? widen(from[v * 9 + n]) : A(0);
  }
};

template <class T, int V>
struct Taps<T, 0, V> {
  using A = Accumulator<T>;
  const A* weight;  // [tap][channel], from the thread's first channel on
  int channels, kernel_size;

  __host__ __device__ static int64_t bytes(const Plan& plan, int kernel_size) {
    return int64_t(kernel_size) * kernel_size * plan.channels() * int64_t(sizeof(A));
  }

  // The block fills `memory` together; a barrier has to follow.
  __device__ Taps(const RdaConvParams& p, const Plan& plan, const Place& place, int channel, void* memory)
      : weight(static_cast<const A*>(memory) + channel), channels(plan.channels()), kernel_size(p.kernel_size) {
    const int taps = kernel_size * kernel_size;
    const T* from = static_cast<const T*>(p.weight) + (place.sample * p.channels + place.first_channel) * taps;
    for (int i = int(threadIdx.x); i < taps << plan.channels_log2; i += int(blockDim.x)) {
      const int tap = i >> plan.channels_log2, c = i & (channels - 1);
      static_cast<A*>(memory)[i] = c < place.channels ? widen(from[c * taps + tap]) : A(0);
    }
  }
};

// A thread's correlation with its kernels, at P pixels; with those turned by 180 degrees where kTurned.
template <class T, int K, int P, int V, bool kTurned>
struct Correlation {
  static_assert(K == 3, "");
  using A = Accumulator<T>;
  A begun[2][P][V] = {};  // the sums of the next two rows, as far as they are known

  // Takes row k of the ring; `offset` is the thread's place in it: its first channel, at its first pixel's first tap.
  // Gives the sums of the row above.
  template <class E, int kSlots>
  __device__ void push(const Taps<T, K, V>& taps, const Ring<E, kSlots>& ring, int k, int offset, A (&sum)[P][V]) {
    const E* row = ring.row(k) + offset;
#pragma unroll
    for (int p = 0; p < P; ++p)
#pragma unroll
      for (int v = 0; v < V; ++v) {
        sum[p][v] = begun[0][p][v];
        begun[0][p][v] = begun[1][p][v];
        begun[1][p][v] = A(0);
      }
#pragma unroll
    for (int column = 0; column < P + 2; ++column) {
      A x[V];
      load<V>(row + column * ring.pitch, x);
#pragma unroll
      for (int p = 0; p < P; ++p) {
        const int j = column - p;  // the tap
        if (j < 0 || j > 2) continue;
#pragma unroll
        for (int v = 0; v < V; ++v) {
          sum[p][v] = add_tap(sum[p][v], taps.weight[kTurned ? 2 - j : 6 + j][v], x[v]);
          begun[0][p][v] = add_tap(begun[0][p][v], taps.weight[kTurned ? 5 - j : 3 + j][v], x[v]);
          begun[1][p][v] = add_tap(begun[1][p][v], taps.weight[kTurned ? 8 - j : j][v], x[v]);
        }
      }
    }
  }
};

template <class T, int V, bool kTurned>
struct Correlation<T, 0, 1, V, kTurned> {
  using A = Accumulator<T>;

  // The same, for any K: rows k - K + 1 to k are in the ring.
  template <class E, int kSlots>
  __device__ void push(const Taps<T, 0, V>& taps, const Ring<E, kSlots>& ring, int k, int offset, A (&sum)[1][V]) {
    const int size = taps.kernel_size;
#pragma unroll
    for (int v = 0; v < V; ++v) sum[0][v] = A(0);
    for (int i = 0; i < size; ++i) {
      const E* row = ring.row(k - size + 1 + i) + offset;
      for (int j = 0; j < size; ++j) {
        const int tap = i * size + j;
        A x[V], w[V];
        load<V>(row + j * ring.pitch, x);
        load<V>(taps.weight + (kTurned ? size * size - 1 - tap : tap) * taps.channels, w);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[0][v] = add_tap(sum[0][v], w[v], x[v]);
      }
    }
  }
};

}  // namespace gpu
}  // namespace mrda
