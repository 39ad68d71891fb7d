// The gradients that are sums over pixels: summed per thread, then per block, and last over the blocks, in an order that
// the shape alone decides.
#pragma once

#include "strip.cuh"

namespace mrda {
namespace gpu {
namespace {

// The gradient of the kernels, summed over a strip's pixels: sum of grad_z at a pixel times the input at its taps.
template <class T, int K, int P, int V>
struct WeightSums {  // K = 3: a thread sums over its own columns
  static_assert(K == 3, "");
  using A = Accumulator<T>;
  A sum[9][V] = {};

  __host__ __device__ static int64_t bytes(const Plan&, int) { return 0; }
  __device__ WeightSums(const Plan&, int, void*) {}

  // grad_z of the thread's pixels in the row whose taps are rows k - 2 to k. A pixel that does not count may have anything
  // at its taps.
  template <int kSlots, class Counts>
  __device__ void add(const Ring<T, kSlots>& input, int k, int offset, const A (&grad_z)[P][V], Counts counts) {
#pragma unroll
    for (int i = 0; i < 3; ++i)
#pragma unroll
      for (int column = 0; column < P + 2; ++column) {
        A x[V];
        load<V>(input.row(k - 2 + i) + offset + column * input.pitch, x);
#pragma unroll
        for (int p = 0; p < P; ++p) {
          const int j = column - p;  // the tap
          if (j < 0 || j > 2 || !counts(p)) continue;
#pragma unroll
          for (int v = 0; v < V; ++v) sum[i * 3 + j][v] = add_tap(sum[i * 3 + j][v], grad_z[p][v], x[v]);
        }
      }
  }
};

template <class T, int V>
struct WeightSums<T, 0, 1, V> {  // a thread sums some taps and channels over all columns, in shared memory
  using A = Accumulator<T>;
  A* sum;  // [tap][channel]
  int channels_log2, kernel_size;

  __host__ __device__ static int64_t bytes(const Plan& plan, int kernel_size) {
    return (int64_t(kernel_size) * kernel_size << plan.channels_log2) * int64_t(sizeof(A));
  }
  __device__ WeightSums(const Plan& plan, int kernel_size, void* memory)
      : sum(static_cast<A*>(memory)), channels_log2(plan.channels_log2), kernel_size(kernel_size) {
    for (int i = int(threadIdx.x); i < kernel_size * kernel_size << channels_log2; i += int(blockDim.x)) sum[i] = A(0);
  }

  // Rows k - K + 1 to k of the input; row k of grad_z, its pixels from `first` to before `last`.
  template <int kSlots, int kGradSlots>
  __device__ void add(const Ring<T, kSlots>& input, int k, const Ring<A, kGradSlots>& grad_z, int first, int last) {
    for (int i = int(threadIdx.x); i < kernel_size * kernel_size << channels_log2; i += int(blockDim.x)) {
      const int tap = i >> channels_log2, channel = i & ((1 << channels_log2) - 1);
      const int first_pixel = tap % kernel_size - kernel_size / 2;  // that the first of grad_z meets
      const T* x = input.row(k - kernel_size + 1 + tap / kernel_size) + first_pixel * input.pitch + channel;
      const A* grad = grad_z.row(k) + channel;
      A row_sum = A(0);
      for (int at = first; at < last; ++at)
        row_sum = add_tap(row_sum, grad[at * grad_z.pitch], widen(x[at * input.pitch]));
      sum[i] += row_sum;
    }
  }
};

// A block's share of the sums: [tap][channel] for the kernels, then [channel] for mask_weight, then mask_bias.
struct Partial {
  int weight, mask_weight, elements;

  __host__ __device__ Partial(const Plan& plan, int kernel_size)
      : weight(kernel_size * kernel_size << plan.channels_log2), mask_weight(weight + plan.channels()),
        elements(mask_weight + 1) {}
};

// Sums the threads' V channels over the block's columns of threads, into to[channel].
template <int V, class A>
__device__ void sum_columns(const Plan& plan, const A (&values)[V], const Ring<A, 1>& scratch, A* to, int channels) {
  const Seat seat = Seat::of<V>(plan);
  __syncthreads();  // the scratch memory may still be read
  store<V>(scratch.row(0) + seat.column * scratch.pitch + seat.channel, values);
  __syncthreads();
  for (int c = int(threadIdx.x); c < channels; c += int(blockDim.x)) {
    A sum = A(0);
    for (int at = 0; at < plan.thread_columns(); ++at) sum += scratch.row(0)[at * scratch.pitch + c];
    to[c] = sum;
  }
}

constexpr int kTile = 32;  // elements of a block, and threads that share the terms of each

template <class A>
struct ReduceArguments {
  Backward p;
  Plan plan;
  const A* partials;
  int groups;  // of kTile elements; the most that any sum has
};

// Blocks for each sample and chunk sum the kernels' gradients over that one's blocks; the last ones, where there is a
// mask, sum its gradients over all blocks.
template <class T>
__global__ void __launch_bounds__(kTile* kTile) reduce_kernel(const ReduceArguments<Accumulator<T>> a) {
  MRDA_DYNAMIC_SHARED(memory);
  using A = Accumulator<T>;
  A* const sums = reinterpret_cast<A*>(memory);  // [element][term], a column of padding
  const Partial partial(a.plan, a.p.kernel_size);
  const int64_t which = blockIdx.x / a.groups, samples = a.p.batch * a.plan.chunks;
  const bool of_mask = which == samples;
  const int64_t terms = a.plan.blocks_per_chunk() * (of_mask ? samples : 1), first = of_mask ? 0 : which * terms;
  const int elements = of_mask ? a.plan.channels() + 1 : partial.weight;
  const int lane = int(threadIdx.x) & (kTile - 1), group = int(threadIdx.x) / kTile;

  int element = int(blockIdx.x % a.groups) * kTile + lane;
  A sum = A(0);
  if (element < elements)
    for (int64_t term = group; term < terms; term += kTile)
      sum += a.partials[(first + term) * partial.elements + (of_mask ? partial.weight : 0) + element];
  sums[lane * (kTile + 1) + group] = sum;
  __syncthreads();
  A share[1] = {sums[group * (kTile + 1) + lane]};
  sum_lanes(share, 5);
  sum = share[0];
  element += group - lane;  // the warp's own
  if (lane != 0 || element >= elements) return;
  if (of_mask) {
    if (element < a.p.channels) static_cast<T*>(a.p.grad_mask_weight)[element] = narrow<T>(sum);
    if (element == a.plan.channels()) *static_cast<T*>(a.p.grad_mask_bias) = narrow<T>(sum);
    return;
  }
  const int taps = a.p.kernel_size * a.p.kernel_size, tap = element >> a.plan.channels_log2;
  const int64_t channel = (which % a.plan.chunks << a.plan.channels_log2) + (element & (a.plan.channels() - 1));
  if (channel < a.p.channels)
    static_cast<T*>(a.p.grad_weight)[(which / a.plan.chunks * a.p.channels + channel) * taps + tap] = narrow<T>(sum);
}

}  // namespace
}  // namespace gpu
}  // namespace mrda
