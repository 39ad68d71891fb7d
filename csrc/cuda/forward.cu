// SPDX-License-Identifier: Apache-2.0
// Forward of the RDA convolution on a GPU and, for a mask logit in memory, the elementwise half of its backward.
#include "convolution.cuh"
#include "strip.cuh"

namespace mrda {
namespace gpu {
namespace {

template <class T, int K>
struct Config {
  using Element = T;
  static constexpr bool kAnySize = K == kAnyKernelSize, kHalf = sizeof(T) == 2;
  static constexpr int kVectorLog2 = gpu::kVectorLog2<T>;  // channels per thread
  static constexpr int kPixels = kPixelsPerThread<K>;
  static constexpr int kThreads = !kAnySize && kHalf ? 128 : 256;
  // Blocks per multiprocessor, at least: this leaves a thread 168 registers with 8 channels, otherwise 128.
  static constexpr int kMinBlocks = !kAnySize && kHalf ? 3 : 2;
  // A pixel's lanes are in one warp. With the taps in shared memory fewer channels keep a block's below 96 KiB.
  static constexpr int kMaxLanesLog2 = kAnySize ? 4 : 5;
  // Rows in the ring buffer: those under the taps, and those being loaded.
  static constexpr int kStages = kAnySize ? 8 : 4;
  static constexpr int kPrefetch = kAnySize ? 1 : 2;
};

template <class T, int K>
Tiling tiling_of(const RdaConvParams& p) {
  return make_tiling<Config<T, K>>(p, 0);
}

template <class T, int K>
struct SharedStorage {
  using A = Accumulator<T>;
  RingBuffer<T, Config<T, K>::kStages> input;
  A* taps;         // [tap][channel]; empty for K = 3
  A* mask_weight;  // [channel]
  RingBuffer<T, 1> staging;  // a row of results
  int bytes;

  __host__ __device__ SharedStorage(SharedAllocator allocator, const Tiling& tiling, int kernel_size)
      : input(allocator, tiling.columns + kernel_size - 1, tiling),
        taps(allocator.take<A>(Taps<T, K, kVector<T>>::shared_elements(tiling, kernel_size))),
        mask_weight(allocator.take<A>(tiling.channels())),
        staging(allocator, tiling.columns, tiling),
        bytes(allocator.bytes()) {}
};

template <class Params, class A>
struct Arguments {
  Params p;
  Tiling tiling;
  Slopes<A> slopes;
  VectorAxis input_axis, result_axis;
};

// Walks down a tile. For each row of it, calls finish(row, z, x) with the dynamic convolution's result and the input at
// the thread's pixels and channels.
template <class T, int K, bool kChannelVectors, class Params, class Finish>
__device__ void convolve_tile(const Arguments<Params, Accumulator<T>>& a, const BlockTile& block,
                              const ThreadTile& thread, const SharedStorage<T, K>& shared, Finish finish) {
  constexpr int V = kVector<T>, P = kPixelsPerThread<K>, kPrefetch = Config<T, K>::kPrefetch;
  using A = Accumulator<T>;
  const int halo = kernel_size<K>(a.p) / 2;
  const Taps<T, K, V> taps(a.p, a.tiling, block, thread.channel, shared.taps);
  Correlation<T, K, P, V, false> correlation;

  const ImageView<const T> image(a.p, a.p.input, block);
  const int first_row = block.top - halo, steps = block.rows + 2 * halo;
  const int offset = thread.pixel * shared.input.pitch + thread.channel;
  const auto prefetch = [&](int k) {
    if (k < steps)
      load_row<kChannelVectors>(image, a.input_axis, a.tiling, first_row + k, block.left - halo, shared.input, k);
    __pipeline_commit();  // also without a row: wait_prior counts groups
  };
  for (int k = 0; k < kPrefetch; ++k) prefetch(k);
#pragma unroll 1
  for (int k = 0; k < steps; ++k) {
    __pipeline_wait_prior(kPrefetch - 1);
    __syncthreads();  // row k has arrived, and all threads are done with the oldest row
    prefetch(k + kPrefetch);
    A z[P][V], x[P][V];
    correlation.push(taps, shared.input, k, offset, z);
    if (k < 2 * halo) continue;
#pragma unroll
    for (int p = 0; p < P; ++p) load<V>(shared.input.row(k - halo) + offset + (halo + p) * shared.input.pitch, x[p]);
    finish(first_row + k - halo, z, x);
  }
}

enum class MaskSource { kNone, kFused, kInMemory };  // see launch.h

// Turns z into the result, with the mask of the thread's pixels computed here.
template <int P, int V, class A>
__device__ __forceinline__ void apply_fused_mask(const A* mask_weight, A mask_bias, int lanes_log2, Slopes<A> slopes,
                                                 const A (&x)[P][V], A (&z)[P][V]) {
  A weight[V], mask_logit[P];
  load<V>(mask_weight, weight);
  mask_convolution(weight, x, lanes_log2, mask_logit);
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const A mask = sigmoid(mask_logit[p] + mask_bias);
#pragma unroll
    for (int v = 0; v < V; ++v) z[p][v] = apply_mask(z[p][v], mask, x[p][v], slopes);
  }
}

// Turns z into the result of the bare convolution.
template <int P, int V, class A>
__device__ __forceinline__ void apply_activation(Slopes<A> slopes, A (&z)[P][V]) {
#pragma unroll
  for (int p = 0; p < P; ++p)
#pragma unroll
    for (int v = 0; v < V; ++v) z[p][v] = leaky_relu(z[p][v], slopes.inner);
}

// Turns z into the result, with the logit in memory; it has only as many columns and channels as the image.
template <int P, int V, class A>
__device__ __forceinline__ void apply_mask_in_memory(const ImageView<const A>& mask_logit, int row, int column,
                                                     int channel, Slopes<A> slopes, const A (&x)[P][V], A (&z)[P][V]) {
#pragma unroll
  for (int p = 0; p < P; ++p)
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (column + p < mask_logit.width && channel + v < mask_logit.channels) {
        const A mask = sigmoid(*mask_logit.at(row, column + p, channel + v));
        z[p][v] = apply_mask(z[p][v], mask, x[p][v], slopes);
      }
}

template <class T, int K, MaskSource kMask, bool kChannelVectors>
__global__ void __launch_bounds__(Config<T, K>::kThreads, kChannelVectors ? Config<T, K>::kMinBlocks : 1)
    forward_kernel(const Arguments<Forward, Accumulator<T>> a) {
  MRDA_DYNAMIC_SHARED(memory);
  constexpr int V = kVector<T>, P = kPixelsPerThread<K>;
  using A = Accumulator<T>;
  const SharedStorage<T, K> shared(SharedAllocator(memory), a.tiling, kernel_size<K>(a.p));
  const BlockTile block(a.p, a.tiling);
  const ThreadTile thread(a.tiling, V);
  const ImageView<T> output(a.p, a.p.output, block);
  A mask_bias = A(0);
  if (kMask == MaskSource::kFused) {
    load_mask_weight<T>(a.p, a.tiling, block, shared.mask_weight);
    mask_bias = load_mask_bias<T>(a.p);
  }

  const auto finish = [&](int row, A (&z)[P][V], const A (&x)[P][V]) {
    if (kMask == MaskSource::kNone) apply_activation(a.slopes, z);
    if (kMask == MaskSource::kFused)
      apply_fused_mask(shared.mask_weight + thread.channel, mask_bias, a.tiling.lanes_log2, a.slopes, x, z);
    if (kMask == MaskSource::kInMemory)
      apply_mask_in_memory(ImageView<const A>(a.p, a.p.mask_logit, block), row, block.left + thread.pixel,
                           thread.channel, a.slopes, x, z);
    store_row<kChannelVectors>(output, a.result_axis, a.tiling, row, block.left, a.tiling.columns, thread.pixel,
                               thread.channel, z, shared.staging);
  };
  convolve_tile<T, K, kChannelVectors>(a, block, thread, shared, finish);
}

// T is an accumulation type here.
template <class T, int K>
__global__ void __launch_bounds__(Config<T, K>::kThreads, 1) mask_backward_kernel(const Arguments<MaskBackward, T> a) {
  MRDA_DYNAMIC_SHARED(memory);
  constexpr int V = kVector<T>, P = kPixelsPerThread<K>;
  const SharedStorage<T, K> shared(SharedAllocator(memory), a.tiling, kernel_size<K>(a.p));
  const BlockTile block(a.p, a.tiling);
  const ThreadTile thread(a.tiling, V);
  const ImageView<const T> mask_logit(a.p, a.p.mask_logit, block), grad_output(a.p, a.p.grad_output, block);
  const ImageView<T> grad_z(a.p, a.p.grad_z, block), grad_residual(a.p, a.p.grad_residual, block);
  const ImageView<T> grad_mask_logit(a.p, a.p.grad_mask_logit, block);

  const auto finish = [&](int row, const T (&z)[P][V], const T (&x)[P][V]) {
    T z_values[P][V] = {}, residual_values[P][V] = {}, mask_logit_values[P][V] = {};
#pragma unroll
    for (int p = 0; p < P; ++p)
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int column = block.left + thread.pixel + p, channel = thread.channel + v;
        if (column >= mask_logit.width || channel >= block.channels) continue;
        const T mask = sigmoid(*mask_logit.at(row, column, channel));
        const MaskGrads<T> grads =
            apply_mask_backward(*grad_output.at(row, column, channel), z[p][v], mask, x[p][v], a.slopes);
        z_values[p][v] = grads.grad_z;
        residual_values[p][v] = grads.grad_residual;
        mask_logit_values[p][v] = grads.grad_mask * sigmoid_slope(mask);
      }
    const auto store = [&](const ImageView<T>& to, const T (&values)[P][V]) {
      store_row<false>(to, a.result_axis, a.tiling, row, block.left, a.tiling.columns, thread.pixel, thread.channel,
                       values, shared.staging);
    };
    store(grad_z, z_values);
    store(grad_residual, residual_values);
    store(grad_mask_logit, mask_logit_values);
  };
  convolve_tile<T, K, false>(a, block, thread, shared, finish);
}

template <class T, int K, class Params>
Arguments<Params, Accumulator<T>> make_arguments(const Params& p, VectorAxis result_axis) {
  return {p, tiling_of<T, K>(p), slopes_of<Accumulator<T>>(p), vector_axis<T>(p, p.input), result_axis};
}

template <class T, int K, class Params>
MrdaCudaStatus launch_tiles(const char* name, void (*kernel)(Arguments<Params, Accumulator<T>>),
                            const Arguments<Params, Accumulator<T>>& a, void* stream) {
  const SharedStorage<T, K> shared(SharedAllocator(nullptr), a.tiling, a.p.kernel_size);
  return launch(name, kernel, a.tiling.blocks(a.p.batch), a.tiling.threads(), shared.bytes, stream, a);
}

template <class T, int K>
MrdaCudaStatus forward(const Forward& p, void* stream) {
  const auto a = make_arguments<T, K>(p, vector_axis<T>(p, p.output));
  const auto run = [&](auto kernel) { return launch_tiles<T, K>("rda_conv_forward", kernel, a, stream); };
  if (p.mask_logit.data) return run(forward_kernel<T, K, MaskSource::kInMemory, false>);
  const bool channel_vectors = a.input_axis == VectorAxis::kChannels && a.result_axis == VectorAxis::kChannels;
  return static_switch(channel_vectors, [&](auto vectors) {
    constexpr bool kChannelVectors = decltype(vectors)::value;
    return p.mask_channels ? run(forward_kernel<T, K, MaskSource::kFused, kChannelVectors>)
                           : run(forward_kernel<T, K, MaskSource::kNone, kChannelVectors>);
  });
}

template <class T, int K>
MrdaCudaStatus mask_backward(const MaskBackward& p, void* stream) {
  const VectorAxis z = vector_axis<T>(p, p.grad_z), residual = vector_axis<T>(p, p.grad_residual);
  const VectorAxis logit = vector_axis<T>(p, p.grad_mask_logit);
  const auto a = make_arguments<T, K>(p, z == residual && z == logit ? z : VectorAxis::kNone);
  return launch_tiles<T, K>("rda_conv_mask_backward", mask_backward_kernel<T, K>, a, stream);
}

}  // namespace

bool forward_fuses_mask(const RdaConvParams& p) {
  return static_switch(p, [&](auto element, auto kernel_size) {
    return tiling_of<decltype(element), kernel_size.value>(p).channel_chunks == 1;
  });
}

}  // namespace gpu
}  // namespace mrda

using namespace mrda;

extern "C" MrdaCudaStatus mrda_cuda_forward(const gpu::Forward* p, int device, void* stream) {
  return gpu::on_device(*p, device, [&] {
    if (gpu::strips_serve(*p))
      return p->dtype == DType::kFloat32 ? gpu::forward_float_by_strips(*p, device, stream)
                                         : gpu::forward_half_by_strips(*p, device, stream);
    return gpu::static_switch(*p, [&](auto element, auto kernel_size) {
      return gpu::forward<decltype(element), kernel_size.value>(*p, stream);
    });
  });
}

extern "C" MrdaCudaStatus mrda_cuda_mask_backward(const gpu::MaskBackward* p, int device, void* stream) {
  return gpu::on_device(*p, device, [&] {
    return gpu::switch_kernel_size(p->kernel_size, [&](auto kernel_size) {
      return p->dtype == DType::kFloat64 ? gpu::mask_backward<double, kernel_size.value>(*p, stream)
                                         : gpu::mask_backward<float, kernel_size.value>(*p, stream);
    });
  });
}

extern "C" MrdaCudaStatus mrda_cuda_versions(int* runtime, int* driver) {
  const cudaError_t error = cudaRuntimeGetVersion(runtime);
  return gpu::make_status(error == cudaSuccess ? cudaDriverGetVersion(driver) : error, "cudaDriverGetVersion");
}
