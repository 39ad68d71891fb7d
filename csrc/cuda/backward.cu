// SPDX-License-Identifier: Apache-2.0
// Backward of the RDA convolution on a GPU, in one pass that recomputes z and the mask around each pixel.
//
// While a block walks down its tile, three computations follow each other, K / 2 rows apart: z, on the result's pixels
// and a halo of K / 2 around them; from z and grad_output, the gradient of z, which goes into shared memory; and from
// that, the gradient of the input. See reduction.cuh for the gradients that are sums over pixels.
#include "convolution.cuh"
#include "reduction.cuh"
#include "strip.cuh"

namespace mrda {
namespace gpu {
namespace {

template <class T, int K>
struct Config {
  using Element = T;
  static constexpr bool kAnySize = K == kAnyKernelSize, kDouble = sizeof(T) == 8;
  static constexpr int kVectorLog2 = gpu::kVectorLog2<Accumulator<T>>;  // channels per thread: 16 bytes of sums
  static constexpr int kPixels = kPixelsPerThread<K>;
  // With K = 3, two blocks fit on a multiprocessor if a thread takes at most 168 registers. The other sizes have the
  // taps and their gradient in shared memory, where fewer threads and channels keep a block below 96 KiB.
  static constexpr int kThreads = !kAnySize && !kDouble ? 192 : 128;
  // Blocks per multiprocessor, at least.
  static constexpr int min_blocks(bool masked) { return !kDouble ? 2 : !kAnySize && !masked ? 3 : 1; }
  static constexpr int kMaxLanesLog2 = kAnySize ? 3 : 5;  // a pixel's lanes are in one warp
  // Rows in the ring buffers: those in use, and kPrefetch being loaded.
  static constexpr int kPrefetch = kAnySize ? 1 : 3;
  static constexpr int kInputStages = kAnySize ? 8 : 6;
  static constexpr int kGradOutputStages = kPrefetch + 1;
  static constexpr int kGradZStages = kAnySize ? 8 : 1;
};

template <class T, int K>
Tiling tiling_of(const RdaConvParams& p) {
  return make_tiling<Config<T, K>>(p, p.kernel_size / 2);
}

// Per-thread area in shared memory for what these kernels have no registers for: a delay line of `rows` rows for the
// gradient of the residual term, which has to wait for the gradient through the convolution, K / 2 rows later; and the
// thread's sums for the mask's gradients.
template <class A, int P, int V>
class ThreadScratch {
 public:
  __host__ __device__ static int shared_elements(const Tiling& tiling, int rows) {
    return tiling.threads() * vectors(rows) * V;
  }

  __device__ ThreadScratch(A* shared, int rows) : memory_(shared + int(threadIdx.x) * vectors(rows) * V), rows_(rows) {
    const A zeros[V] = {};
    store<V>(grad_mask_weight(), zeros);
    *grad_mask_bias() = A(0);
  }

  __device__ A* grad_mask_weight() const { return memory_ + rows_ * P * V; }
  __device__ A* grad_mask_bias() const { return memory_ + (rows_ * P + 1) * V; }

  // Puts a row into the delay line and takes out the one from `rows` rows before.
  __device__ void delay(A (&values)[P][V]) {
    if (rows_ == 0) return;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      A* slot = memory_ + (next_ * P + p) * V;
      A oldest[V];
      load<V>(slot, oldest);
      store<V>(slot, values[p]);
#pragma unroll
      for (int v = 0; v < V; ++v) values[p][v] = oldest[v];
    }
    next_ = next_ + 1 == rows_ ? 0 : next_ + 1;
  }

 private:
  // An odd number of vectors per thread, so that neighbouring threads use different banks.
  __host__ __device__ static int vectors(int rows) { return (rows * P + 2) | 1; }

  A* memory_;
  int rows_, next_ = 0;
};

template <class T, int K>
struct SharedStorage {
  using A = Accumulator<T>;
  using Cfg = Config<T, K>;
  static constexpr int V = 1 << Cfg::kVectorLog2, P = Cfg::kPixels;

  RingBuffer<T, Cfg::kInputStages> input;
  RingBuffer<T, Cfg::kGradOutputStages> grad_output;
  // With a halo on both sides, which nobody writes: it only gets into sums that are not used.
  RingBuffer<A, Cfg::kGradZStages> grad_z;
  A* taps;  // [tap][channel]; empty for K = 3
  A* thread_scratch;
  A* grad_weight;            // [tap][channel]; empty for K = 3
  A* mask_weight;            // [channel], then mask_bias, then padding
  T** grad_input;            // address of the block's first element; here to spare registers
  RingBuffer<A, 1> scratch;  // for results on their way to memory, and for sums over the block
  int bytes;

  __host__ __device__ SharedStorage(SharedAllocator allocator, const Tiling& tiling, int kernel_size)
      : input(allocator, tiling.columns + kernel_size - 1, tiling),
        grad_output(allocator, tiling.columns, tiling),
        grad_z(allocator, tiling.columns + kernel_size - 1, tiling),
        taps(allocator.take<A>(Taps<T, K, V>::shared_elements(tiling, kernel_size))),
        thread_scratch(allocator.take<A>(ThreadScratch<A, P, V>::shared_elements(tiling, kernel_size / 2))),
        grad_weight(allocator.take<A>(WeightGrad<T, K, P, V>::shared_elements(tiling, kernel_size))),
        mask_weight(allocator.take<A>(tiling.channels() + 4)),
        grad_input(allocator.take<T*>(2)),
        // the only row of grad_z is free again once it has been read
        scratch(Cfg::kGradZStages == 1 ? RingBuffer<A, 1>(grad_z.data, tiling.columns, tiling)
                                       : RingBuffer<A, 1>(allocator, tiling.columns, tiling)),
        bytes(allocator.bytes()) {}
};

template <class A>
struct Arguments {
  Backward p;
  Tiling tiling;
  Slopes<A> slopes;
  VectorAxis input_axis, grad_output_axis, grad_input_axis;
  A* partials;  // PartialSums of every block
};

// A block's walk down its tile. Row 0 of the input is 2 * halo rows above the tile; row 0 of grad_output, and of z and
// the mask, is halo rows above it. Step k takes row k of the input and row k - 2 * halo of grad_output, computes the
// gradients of z and of the mask in that row, and writes row k - 4 * halo of the tile.
template <class T, int K, bool kMasked, bool kChannelVectors>
class BackwardTile {
  using A = Accumulator<T>;
  using Cfg = Config<T, K>;
  static constexpr int V = 1 << Cfg::kVectorLog2, P = Cfg::kPixels, kPrefetch = Cfg::kPrefetch;

 public:
  __device__ __forceinline__ BackwardTile(const Arguments<A>& a, unsigned char* memory)
      : a_(a),
        block_(a.p, a.tiling),
        thread_(a.tiling, V),
        kernel_size_(kernel_size<K>(a.p)),
        halo_(kernel_size_ / 2),
        column_(block_.left - halo_ + thread_.pixel),
        shared_(SharedAllocator(memory), a.tiling, kernel_size_),
        taps_(a.p, a.tiling, block_, thread_.channel, shared_.taps),
        scratch_(shared_.thread_scratch, halo_),
        weight_grad_(a.tiling, kernel_size_, shared_.grad_weight),
        input_(a.p, a.p.input, block_),
        grad_output_(a.p, a.p.grad_output, block_),
        grad_input_(a.p, a.p.grad_input, block_),
        input_offset_(thread_.pixel * shared_.input.pitch + thread_.channel) {
    if (kMasked) {
      load_mask_weight<T>(a.p, a.tiling, block_, shared_.mask_weight);
      if (threadIdx.x == 0) shared_.mask_weight[a.tiling.channels()] = load_mask_bias<T>(a.p);
    }
    if (threadIdx.x == 0) *shared_.grad_input = grad_input_.data;
  }

  __device__ __forceinline__ void run() {
    const int steps = block_.rows + 4 * halo_;
    for (int k = 0; k < kPrefetch; ++k) prefetch(k, steps);
#pragma unroll 1
    for (int k = 0; k < steps; ++k) {
      __pipeline_wait_prior(kPrefetch - 1);
      __syncthreads();  // row k has arrived, and all threads are done with the oldest rows
      prefetch(k + kPrefetch, steps);

      A z[P][V] = {};
      if (kMasked) convolve_input_.push(taps_, shared_.input, k, input_offset_, z);
      if (k < 2 * halo_) continue;
      A grad_z[P][V], grad_residual[P][V] = {};
      if (kMasked) {
        backward_of_mask(k, z, grad_z, grad_residual);
      } else {
#pragma unroll
        for (int p = 0; p < P; ++p) load_grad_output(k, p, grad_z[p]);
      }
      share_grad_z(k, grad_z);
      __syncthreads();  // the row of grad_z is complete
      add_to_weight_grad(k, grad_z);

      A grad_input[P][V] = {};
      const int grad_z_offset = thread_.pixel * shared_.grad_z.pitch + thread_.channel;
      convolve_grad_z_.push(taps_, shared_.grad_z, k, grad_z_offset, grad_input);
      if (kMasked) scratch_.delay(grad_residual);
      if (k < 4 * halo_) continue;
      add_residual(k, grad_residual, grad_input);
      store_grad_input(k, grad_input);
    }
    store_partial_sums();
  }

 private:
  __device__ __forceinline__ void prefetch(int k, int steps) {
    if (k < steps) {
      load_row<kChannelVectors>(input_, a_.input_axis, a_.tiling, block_.top - 2 * halo_ + k, block_.left - 2 * halo_,
                                shared_.input, k);
      if (k >= 2 * halo_)
        load_row<kChannelVectors>(grad_output_, a_.grad_output_axis, a_.tiling, grad_row(k), block_.left - halo_,
                                  shared_.grad_output, k);
    }
    __pipeline_commit();  // also without a row: wait_prior counts groups
  }

  // The row of the image whose gradients step k computes.
  __device__ __forceinline__ int grad_row(int k) const { return block_.top - 3 * halo_ + k; }

  // Tiles overlap by their halos. A pixel counts in the sums of one tile only: the one that writes its result.
  __device__ __forceinline__ bool row_counts(int k) const { return inside(k - 3 * halo_, block_.rows); }
  __device__ __forceinline__ bool counts(int k, int p) const {
    return row_counts(k) && inside(thread_.pixel + p - halo_, a_.tiling.tile_width) && column_ + p < int(a_.p.width);
  }

  __device__ __forceinline__ void load_grad_output(int k, int p, A (&grad)[V]) const {
    load<V>(shared_.grad_output.row(k) + (thread_.pixel + p) * shared_.grad_output.pitch + thread_.channel, grad);
  }

  // Recomputes the mask, and gives the gradients of z and of the residual term, the one through the mask included. Adds
  // to the sums for the gradients of mask_weight and mask_bias.
  __device__ __forceinline__ void backward_of_mask(int k, const A (&z)[P][V], A (&grad_z)[P][V],
                                                   A (&grad_residual)[P][V]) {
    A x[P][V], mask_weight[V], mask[P], grad_mask[P] = {};
    load<V>(shared_.mask_weight + thread_.channel, mask_weight);
#pragma unroll
    for (int p = 0; p < P; ++p)
      load<V>(shared_.input.row(k - halo_) + input_offset_ + (halo_ + p) * shared_.input.pitch, x[p]);
    mask_convolution(mask_weight, x, a_.tiling.lanes_log2, mask);
#pragma unroll
    for (int p = 0; p < P; ++p) {
      mask[p] = sigmoid(mask[p] + shared_.mask_weight[a_.tiling.channels()]);
      load_grad_output(k, p, grad_z[p]);
      const bool exists = inside(grad_row(k), a_.p.height) && inside(column_ + p, a_.p.width);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const MaskGrads<A> grads = apply_mask_backward(grad_z[p][v], z[p][v], mask[p], x[p][v], a_.slopes);
        grad_z[p][v] = exists ? grads.grad_z : A(0);
        grad_residual[p][v] = grads.grad_residual;
        grad_mask[p] += grads.grad_mask;
      }
    }
    warp_sum(grad_mask, a_.tiling.lanes_log2);

    A grad_mask_weight[V];
    load<V>(scratch_.grad_mask_weight(), grad_mask_weight);
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const A grad_mask_logit = counts(k, p) ? grad_mask[p] * sigmoid_slope(mask[p]) : A(0);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        grad_residual[p][v] = add_tap(grad_residual[p][v], mask_weight[v], grad_mask_logit);
        // a pixel that does not count may hold anything, even NaN
        if (counts(k, p)) grad_mask_weight[v] = add_tap(grad_mask_weight[v], grad_mask_logit, x[p][v]);
      }
      *scratch_.grad_mask_bias() += grad_mask_logit;
    }
    store<V>(scratch_.grad_mask_weight(), grad_mask_weight);
  }

  __device__ __forceinline__ void share_grad_z(int k, const A (&grad_z)[P][V]) const {
#pragma unroll
    for (int p = 0; p < P; ++p)
      store<V>(shared_.grad_z.row(k) + (halo_ + thread_.pixel + p) * shared_.grad_z.pitch + thread_.channel, grad_z[p]);
  }

  __device__ __forceinline__ void add_to_weight_grad(int k, const A (&grad_z)[P][V]) {
    if (!row_counts(k)) return;
    if constexpr (K == kAnyKernelSize)
      weight_grad_.add(shared_.input, k, shared_.grad_z, 2 * halo_, 2 * halo_ + a_.tiling.tile_width);
    else
      weight_grad_.add(shared_.input, k, input_offset_, grad_z, [&](int p) { return counts(k, p); });
  }

  // Adds the gradient that does not come through the convolution.
  __device__ __forceinline__ void add_residual(int k, const A (&grad_residual)[P][V], A (&grad_input)[P][V]) const {
#pragma unroll
    for (int p = 0; p < P; ++p)
#pragma unroll
      for (int v = 0; v < V; ++v) grad_input[p][v] += grad_residual[p][v];
    if (kChannelVectors || kMasked || !a_.p.residual.data) return;
    const ImageView<const T> residual(a_.p, a_.p.residual, block_);
#pragma unroll
    for (int p = 0; p < P; ++p)
#pragma unroll
      for (int v = 0; v < V; ++v)
        if (inside(column_ + p, a_.p.width) && thread_.channel + v < block_.channels)
          grad_input[p][v] += widen(*residual.at(grad_row(k) - halo_, column_ + p, thread_.channel + v));
  }

  __device__ __forceinline__ void store_grad_input(int k, const A (&grad_input)[P][V]) {
    grad_input_.data = *shared_.grad_input;
    const RingBuffer<T, 1> staging(reinterpret_cast<T*>(shared_.scratch.data), a_.tiling.columns, a_.tiling);
    store_row<kChannelVectors>(grad_input_, a_.grad_input_axis, a_.tiling, grad_row(k) - halo_, block_.left,
                               a_.tiling.tile_width, thread_.pixel - halo_, thread_.channel, grad_input, staging);
  }

  __device__ __forceinline__ void store_partial_sums() {
    const Tiling& tiling = a_.tiling;
    const PartialSums layout(tiling, kernel_size_);
    A* const partials = a_.partials + int64_t(blockIdx.x) * layout.elements;
    if constexpr (K == kAnyKernelSize) {
      __syncthreads();
      for (int i = int(threadIdx.x); i < layout.weight_elements(); i += int(blockDim.x))
        partials[i] = weight_grad_.sum[i];
    } else {
#pragma unroll
      for (int n = 0; n < K * K; ++n)
        block_sum(tiling, weight_grad_.sum[n], shared_.scratch, partials + n * tiling.channels(), tiling.channels());
    }
    if (!kMasked) return;
    A grad_mask_weight[V];
    load<V>(scratch_.grad_mask_weight(), grad_mask_weight);
    block_sum(tiling, grad_mask_weight, shared_.scratch, partials + layout.mask_weight, tiling.channels());
    const A grad_mask_bias[V] = {*scratch_.grad_mask_bias()};  // all lanes of a pixel have the same: take channel 0's
    block_sum(tiling, grad_mask_bias, shared_.scratch, partials + layout.mask_bias, 1);
  }

  const Arguments<A>& a_;
  const BlockTile block_;
  const ThreadTile thread_;
  const int kernel_size_, halo_;
  const int column_;  // of the thread's first pixel, in the image
  const SharedStorage<T, K> shared_;
  const Taps<T, K, V> taps_;
  Correlation<T, K, P, V, false> convolve_input_;
  Correlation<T, K, P, V, true> convolve_grad_z_;
  ThreadScratch<A, P, V> scratch_;
  WeightGrad<T, K, P, V> weight_grad_;
  const ImageView<const T> input_, grad_output_;
  ImageView<T> grad_input_;  // its `data` is in shared memory between rows
  const int input_offset_;   // in a row of the input: the thread's first channel of its first pixel's leftmost tap
};

// With kChannelVectors, `residual` must be null.
template <class T, int K, bool kMasked, bool kChannelVectors>
__global__ void __launch_bounds__(Config<T, K>::kThreads, kChannelVectors ? Config<T, K>::min_blocks(kMasked) : 1)
    backward_kernel(const Arguments<Accumulator<T>> a) {
  MRDA_DYNAMIC_SHARED(memory);
  BackwardTile<T, K, kMasked, kChannelVectors>(a, memory).run();
}

template <class T, int K>
int64_t workspace_bytes(const Backward& p) {
  const Tiling tiling = tiling_of<T, K>(p);
  return tiling.blocks(p.batch) * PartialSums(tiling, p.kernel_size).elements * int64_t(sizeof(Accumulator<T>));
}

template <class T, int K>
MrdaCudaStatus backward(const Backward& p, void* workspace, void* stream) {
  using A = Accumulator<T>;
  const Tiling tiling = tiling_of<T, K>(p);
  const Arguments<A> a{p,
                       tiling,
                       slopes_of<A>(p),
                       vector_axis<T>(p, p.input),
                       vector_axis<T>(p, p.grad_output),
                       vector_axis<T>(p, p.grad_input, kVector<A>),  // a thread's channels are written as one vector
                       static_cast<A*>(workspace)};
  const bool channel_vectors = a.input_axis == VectorAxis::kChannels && a.grad_output_axis == VectorAxis::kChannels &&
                               a.grad_input_axis == VectorAxis::kChannels && !p.residual.data;
  const SharedStorage<T, K> shared(SharedAllocator(nullptr), tiling, p.kernel_size);
  const MrdaCudaStatus status = static_switch(p.mask_channels != 0, [&](auto masked) {
    return static_switch(channel_vectors, [&](auto vectors) {
      return launch("rda_conv_backward", backward_kernel<T, K, decltype(masked)::value, decltype(vectors)::value>,
                    tiling.blocks(p.batch), tiling.threads(), shared.bytes, stream, a);
    });
  });
  return status.code ? status : reduce<T>(p, tiling, a.partials, stream);
}

}  // namespace

bool forward_fuses_mask(const RdaConvParams& p);  // in forward.cu

}  // namespace gpu
}  // namespace mrda

using namespace mrda;

extern "C" bool mrda_cuda_fuses_mask(const RdaConvParams* p, bool backward) {
  if (p->mask_channels != 1) return false;
  if (!backward) return gpu::forward_fuses_mask(*p);
  return gpu::static_switch(*p, [&](auto element, auto kernel_size) {
    return gpu::tiling_of<decltype(element), kernel_size.value>(*p).channel_chunks == 1;
  });
}

extern "C" int64_t mrda_cuda_backward_workspace(const gpu::Backward* p, int device) {
  const int64_t bytes = gpu::static_switch(*p, [&](auto element, auto kernel_size) {
    return gpu::workspace_bytes<decltype(element), kernel_size.value>(*p);
  });
  return gpu::strips_fit(*p) ? std::max(bytes, gpu::strip_workspace_bytes(*p, device)) : bytes;
}

extern "C" MrdaCudaStatus mrda_cuda_backward(const gpu::Backward* p, void* workspace, int device, void* stream) {
  return gpu::on_device(*p, device, [&] {
    if (gpu::strips_serve(*p)) return gpu::backward_by_strips(*p, workspace, device, stream);
    return gpu::static_switch(*p, [&](auto element, auto kernel_size) {
      return gpu::backward<decltype(element), kernel_size.value>(*p, workspace, stream);
    });
  });
}
