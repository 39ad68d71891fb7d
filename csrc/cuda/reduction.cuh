// SPDX-License-Identifier: Apache-2.0
// Gradients that are sums over pixels: each thread sums over its own pixels, then each block over its threads, and last
// reduce_kernel over the blocks. There are no atomics; the order depends on the shape and the GPU's
// model alone, so the results are deterministic.
#pragma once

#include "dispatch.cuh"
#include "tile.cuh"

namespace mrda {
namespace gpu {
namespace {

// A block's partial sums in the workspace: [tap][channel] for weight, then [channel] for mask_weight, then mask_bias.
struct PartialSums {
  int mask_weight, mask_bias, elements;

  __host__ __device__ PartialSums(const Tiling& tiling, int kernel_size)
      : mask_weight(kernel_size * kernel_size << tiling.channels_log2),
        mask_bias(mask_weight + tiling.channels()),
        elements(mask_bias + 1) {}
  __host__ __device__ int weight_elements() const { return mask_weight; }
  __host__ __device__ int mask_elements() const { return elements - mask_weight; }
};

// Sums the V channels of every thread over the block's columns of threads, into to[channel]. The whole block calls it.
template <int V, class A>
__device__ void block_sum(const Tiling& tiling, const A (&values)[V], const RingBuffer<A, 1>& scratch, A* to,
                          int channels) {
  const ThreadTile thread(tiling, V);
  __syncthreads();  // other threads may still be reading the scratch memory
  store<V>(scratch.row(0) + thread.column * scratch.pitch + thread.channel, values);
  __syncthreads();
  for (int c = int(threadIdx.x); c < channels; c += int(blockDim.x)) {
    A sum = A(0);
    for (int column = 0; column < tiling.thread_columns(); ++column) sum += scratch.row(0)[column * scratch.pitch + c];
    to[c] = sum;
  }
}

constexpr int kWarp = 32;

template <class A>
struct ReduceArguments {
  Backward p;
  Tiling tiling;
  const A* partials;
  int groups;  // blocks for each sum: enough for the longest, with kWarp elements per block
};

// Adds up the partial sums. There is one sum for each sample and channel chunk, the gradient of its weight; with a
// mask, there is one more for the mask's gradients, over all blocks. Each thread block takes kWarp elements of one sum,
// whose terms its warps share.
template <class T>
__global__ void __launch_bounds__(kWarp* kWarp) reduce_kernel(const ReduceArguments<Accumulator<T>> a) {
  MRDA_DYNAMIC_SHARED(memory);
  using A = Accumulator<T>;
  A* const transposed = reinterpret_cast<A*>(memory);  // [element][warp], padded by one column against bank conflicts
  const PartialSums layout(a.tiling, a.p.kernel_size);
  const int which = int(blockIdx.x) / a.groups, chunks = a.tiling.channel_chunks;  // 32 bits: no division is a call
  const int samples = int(a.p.batch) * chunks;
  const bool of_mask = which == samples;
  const int64_t terms = a.tiling.blocks_per_chunk() * (of_mask ? samples : 1), first = of_mask ? 0 : which * terms;
  const int elements = of_mask ? layout.mask_elements() : layout.weight_elements();
  const int lane = int(threadIdx.x) & (kWarp - 1), warp = int(threadIdx.x) / kWarp;

  int element = int(blockIdx.x % a.groups) * kWarp + lane;
  A sum = A(0);
  if (element < elements)
    for (int64_t term = warp; term < terms; term += kWarp)
      sum += a.partials[(first + term) * layout.elements + (of_mask ? layout.mask_weight : 0) + element];
  transposed[lane * (kWarp + 1) + warp] = sum;
  __syncthreads();
  A share[1] = {transposed[warp * (kWarp + 1) + lane]};
  warp_sum(share, 5);
  sum = share[0];
  element += warp - lane;  // now the warp's, no longer the lane's
  if (lane != 0 || element >= elements) return;
  if (of_mask) {
    if (element < a.p.channels) static_cast<T*>(a.p.grad_mask_weight)[element] = narrow<T>(sum);
    if (element == a.tiling.channels()) *static_cast<T*>(a.p.grad_mask_bias) = narrow<T>(sum);
    return;
  }
  const int taps = a.p.kernel_size * a.p.kernel_size, tap = element >> a.tiling.channels_log2;
  const int64_t channel = (which % chunks << a.tiling.channels_log2) + (element & (a.tiling.channels() - 1));
  if (channel < a.p.channels)
    static_cast<T*>(a.p.grad_weight)[(which / chunks * a.p.channels + channel) * taps + tap] = narrow<T>(sum);
}

template <class T>
MrdaCudaStatus reduce(const Backward& p, const Tiling& tiling, const Accumulator<T>* partials, void* stream) {
  const PartialSums layout(tiling, p.kernel_size);
  const int longest =
      layout.weight_elements() > layout.mask_elements() ? layout.weight_elements() : layout.mask_elements();
  const ReduceArguments<Accumulator<T>> r{p, tiling, partials, (longest + kWarp - 1) / kWarp};
  const int64_t sums = p.batch * tiling.channel_chunks + (p.mask_channels ? 1 : 0);
  return launch("rda_conv_reduce", reduce_kernel<T>, sums * r.groups, kWarp * kWarp,
                kWarp * (kWarp + 1) * int(sizeof(Accumulator<T>)), stream, r);
}

}  // namespace
}  // namespace gpu
}  // namespace mrda
