// Backward of the RDA convolution on a GPU: one pass that recomputes z and the mask around each pixel.
//
// Down a strip of the image, three things follow each other a few rows apart: z, for a ring of pixels wider than the
// result by K / 2; from it and grad_output the gradient of z, which goes into shared memory; and from that the gradient
// of the input. Gradients that are sums over pixels are summed per thread, then per block, and last over the blocks, in
// an order that the shape alone decides: no atomics.
#include "sums.cuh"
#include "taps.cuh"

namespace mrda {
namespace gpu {
namespace {

// Of a block. K = 3 has two blocks on a multiprocessor if each thread takes no more than 168 registers; for the others the
// kernels and much else are in shared memory, which is to stay below 96 KiB.
template <class T, int K>
constexpr int kThreads = K && sizeof(T) < 8 ? 192 : 128;
template <class T>
constexpr int kBlocks = sizeof(T) < 8 ? 2 : 1;  // on a multiprocessor, at least
template <int K>
constexpr int kMaxLanesLog2 = K ? 5 : 3;  // a pixel's lanes are in one warp

template <class T>
constexpr int kVectorLog2 = sizeof(T) == 8 ? 1 : 2;  // channels of a thread: 16 bytes of the accumulation type

template <class T, int K>
Plan plan_of(const RdaConvParams& p) {
  return make_plan<T>(p, kThreads<T, K>, kPixels<K>, kVectorLog2<T>, kMaxLanesLog2<K>, p.kernel_size / 2);
}

// Rows in shared memory: of the input the latest K, of grad_output one, and `kAhead` of each under way.
template <int K>
struct Rows {
  static constexpr int kAhead = K ? 3 : 1;
  static constexpr int kInput = K ? 6 : 8;
  static constexpr int kGradOutput = kAhead + 1;
  static constexpr int kGradZ = K ? 1 : 8;
};

// What a thread keeps for itself in shared memory, since registers are what these kernels have least of: the gradient of
// the residual term, which waits, K / 2 rows long, until the row's gradient through the convolution is known; and its
// sums for the mask's gradients.
template <class A, int P, int V>
struct Own {
  A* memory;
  int rows, next = 0;

  // In vectors; an odd number of them, so that neighbouring threads' lie in other banks.
  __host__ __device__ static int vectors(int rows) { return (rows * P + 2) | 1; }
  __host__ __device__ static int64_t bytes(const Plan& plan, int rows) {
    return int64_t(plan.threads()) * vectors(rows) * V * int64_t(sizeof(A));
  }
  __device__ Own(void* all, int rows)
      : memory(static_cast<A*>(all) + int(threadIdx.x) * vectors(rows) * V), rows(rows) {
    const A zeros[V] = {};
    store<V>(mask_weight(), zeros);
    *mask_bias() = A(0);
  }
  __device__ A* mask_weight() const { return memory + rows * P * V; }
  __device__ A* mask_bias() const { return memory + (rows * P + 1) * V; }

  // Puts a row in, and takes out the one that came `rows` rows before.
  __device__ void exchange(A (&values)[P][V]) {
    if (rows == 0) return;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      A* at = memory + (next * P + p) * V;
      A before[V];
      load<V>(at, before);
      store<V>(at, values[p]);
#pragma unroll
      for (int v = 0; v < V; ++v) values[p][v] = before[v];
    }
    next = next + 1 == rows ? 0 : next + 1;
  }
};

template <class T, int K>
struct SharedMemory {
  using A = Accumulator<T>;
  static constexpr int V = 1 << kVectorLog2<T>, P = kPixels<K>;
  int64_t grad_output, grad_z, weight, own, sums, mask_weight, address, scratch, total;

  __host__ __device__ SharedMemory(const Plan& plan, int kernel_size) {
    const int pad = kernel_size / 2;
    grad_output = Ring<T, Rows<K>::kInput>::bytes(plan.columns + 2 * pad, plan);
    grad_z = grad_output + Ring<T, Rows<K>::kGradOutput>::bytes(plan.columns, plan);
    weight = grad_z + Ring<A, Rows<K>::kGradZ>::bytes(plan.columns + 2 * pad, plan);
    own = weight + Taps<T, K, V>::bytes(plan, kernel_size);
    sums = own + Own<A, P, V>::bytes(plan, pad);
    mask_weight = sums + WeightSums<T, K, P, V>::bytes(plan, kernel_size);
    address = mask_weight + (plan.channels() + 4) * int64_t(sizeof(A));  // mask_bias is with it, and some padding
    const int64_t end = address + 16;
    scratch = K ? grad_z : end;  // with a single row of grad_z, that is free once it has been read
    total = K ? end : end + Ring<A, 1>::bytes(plan.columns, plan);
  }
};

template <class A>
struct Arguments {
  Backward p;
  Plan plan;
  Slopes<A> slopes;
  Access input_access, grad_output_access, grad_input_access;
  A* partials;  // one for each block
};

// With kVectors there is no residual from outside.
template <class T, int K, bool kModulated, bool kVectors>
__global__ void __launch_bounds__(kThreads<T, K>, kVectors ? kBlocks<T> : 1)
    backward_kernel(const Arguments<Accumulator<T>> a) {
  MRDA_DYNAMIC_SHARED(memory);
  using A = Accumulator<T>;
  constexpr int V = 1 << kVectorLog2<T>, P = kPixels<K>, kAhead = Rows<K>::kAhead;
  const Plan& plan = a.plan;
  const Place place(a.p, plan);
  const int size = K ? K : a.p.kernel_size, pad = size / 2;
  const Seat seat = Seat::of<V>(plan);
  const int column = place.left - pad + seat.pixel;  // of the thread's first pixel in the image

  const SharedMemory<T, K> offsets(plan, size);
  const Ring<T, Rows<K>::kInput> input(memory, plan.columns + 2 * pad, plan);
  const Ring<T, Rows<K>::kGradOutput> grad_output(memory + offsets.grad_output, plan.columns, plan);
  // with `pad` columns more on either side: nobody writes them, nor uses the sums that they are part of
  const Ring<A, Rows<K>::kGradZ> grad_z(memory + offsets.grad_z, plan.columns + 2 * pad, plan);
  const Ring<A, 1> scratch(memory + offsets.scratch, plan.columns, plan);
  const Taps<T, K, V> taps(a.p, plan, place, seat.channel, memory + offsets.weight);
  Correlation<T, K, P, V, false> forward_sums;
  Correlation<T, K, P, V, true> backward_sums;
  Own<A, P, V> own(memory + offsets.own, pad);
  WeightSums<T, K, P, V> weight_sums(plan, size, memory + offsets.sums);

  A* const mask_weights = reinterpret_cast<A*>(memory + offsets.mask_weight);
  if (kModulated) {
    const T* from = static_cast<const T*>(a.p.mask_weight);
    for (int c = int(threadIdx.x); c < plan.channels(); c += int(blockDim.x))
      mask_weights[c] = c < place.channels ? widen(from[c]) : A(0);
    if (threadIdx.x == 0)
      mask_weights[plan.channels()] = a.p.mask_bias ? widen(*static_cast<const T*>(a.p.mask_bias)) : A(0);
  }

  // Step k brings row k of the input, which begins 2 * pad rows above the result; grad_output's row k - 2 * pad, which
  // begins pad rows above it, and with it the gradients of that row; and the result's row k - 4 * pad.
  const Image<const T> x_image(a.p, a.p.input, place), grad_image(a.p, a.p.grad_output, place);
  Image<T> result(a.p, a.p.grad_input, place);
  T** const result_data = reinterpret_cast<T**>(memory + offsets.address);  // in shared memory to spare registers
  if (threadIdx.x == 0) *result_data = result.data;
  const int steps = place.rows + 4 * pad;
  const auto fetch = [&](int k) {
    if (k < steps) {
      copy_row<kVectors>(x_image, a.input_access, plan, place.top - 2 * pad + k, place.left - 2 * pad, input, k);
      if (k >= 2 * pad)
        copy_row<kVectors>(grad_image, a.grad_output_access, plan, place.top - 3 * pad + k, place.left - pad, grad_output, k);
    }
    Prefetch<kAhead>::mark();
  };
  for (int k = 0; k < kAhead; ++k) fetch(k);
#pragma unroll 1
  for (int k = 0; k < steps; ++k) {
    Prefetch<kAhead>::wait();
    __syncthreads();  // row k is there; nobody needs the oldest one, nor grad_z's, any more
    fetch(k + kAhead);

    const int tap = seat.pixel * input.pitch + seat.channel;  // the thread's first one
    A z[P][V] = {};
    if (kModulated) forward_sums.push(taps, input, k, tap, z);
    if (k < 2 * pad) continue;

    const int row = place.top - 3 * pad + k;
    const bool row_counts = inside(k - 3 * pad, place.rows);
    const auto counts = [&](int p) {  // whether a pixel's gradients are this block's to sum
      return row_counts && inside(seat.pixel + p - pad, plan.tile_width) && column + p < int(a.p.width);
    };
    A dz[P][V], residual[P][V] = {};
    const auto load_grad_output = [&](int p) {
      load<V>(grad_output.row(k) + (seat.pixel + p) * grad_output.pitch + seat.channel, dz[p]);
    };
    if (!kModulated) {
#pragma unroll
      for (int p = 0; p < P; ++p) load_grad_output(p);
    } else {
      A x[P][V], mask_weight[V], t[P] = {}, dm[P] = {};
      load<V>(mask_weights + seat.channel, mask_weight);
#pragma unroll
      for (int p = 0; p < P; ++p) {
        load<V>(input.row(k - pad) + tap + (pad + p) * input.pitch, x[p]);
#pragma unroll
        for (int v = 0; v < V; ++v) t[p] = add_tap(t[p], mask_weight[v], x[p][v]);
      }
      sum_lanes(t, plan.lanes_log2);
#pragma unroll
      for (int p = 0; p < P; ++p) {
        t[p] = sigmoid(t[p] + mask_weights[plan.channels()]);
        load_grad_output(p);
        const bool exists = inside(row, a.p.height) && inside(column + p, a.p.width);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const ModulateGrads<A> d = modulate_backward(dz[p][v], z[p][v], t[p], x[p][v], a.slopes);
          dz[p][v] = exists ? d.grad_z : A(0);
          residual[p][v] = d.grad_residual;
          dm[p] += d.grad_m;
        }
      }
      sum_lanes(dm, plan.lanes_log2);
      A sums[V];
      load<V>(own.mask_weight(), sums);
#pragma unroll
      for (int p = 0; p < P; ++p) {
        const A dt = counts(p) ? dm[p] * sigmoid_slope(t[p]) : A(0);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          residual[p][v] = add_tap(residual[p][v], mask_weight[v], dt);
          // a pixel that does not count may hold anything
          if (counts(p)) sums[v] = add_tap(sums[v], dt, x[p][v]);
        }
        *own.mask_bias() += dt;
      }
      store<V>(own.mask_weight(), sums);
    }
#pragma unroll
    for (int p = 0; p < P; ++p) store<V>(grad_z.row(k) + (pad + seat.pixel + p) * grad_z.pitch + seat.channel, dz[p]);
    __syncthreads();  // the row of grad_z is there
    if constexpr (K == 3) {
      if (row_counts) weight_sums.add(input, k, tap, dz, counts);
    } else {
      if (row_counts) weight_sums.add(input, k, grad_z, 2 * pad, 2 * pad + plan.tile_width);
    }

    A sum[P][V] = {};
    backward_sums.push(taps, grad_z, k, seat.pixel * grad_z.pitch + seat.channel, sum);
    if (kModulated) own.exchange(residual);
    if (k < 4 * pad) continue;
    const int result_row = row - pad;
#pragma unroll
    for (int p = 0; p < P; ++p)
#pragma unroll
      for (int v = 0; v < V; ++v) sum[p][v] += residual[p][v];
    if (!kVectors && !kModulated && a.p.residual.data) {
      const Image<const T> more(a.p, a.p.residual, place);
#pragma unroll
      for (int p = 0; p < P; ++p)
#pragma unroll
        for (int v = 0; v < V; ++v)
          if (inside(column + p, a.p.width) && seat.channel + v < place.channels)
            sum[p][v] += widen(*more.at(result_row, column + p, seat.channel + v));
    }
    result.data = *result_data;
    write_row<kVectors>(result, a.grad_input_access, plan, result_row, place.left, plan.tile_width, seat.pixel - pad,
                        seat.channel, sum, Ring<T, 1>(scratch.data, plan.columns, plan));
  }

  const Partial partial(plan, size);
  A* const mine = a.partials + int64_t(blockIdx.x) * partial.elements;
  if constexpr (K == 3) {
#pragma unroll
    for (int n = 0; n < 9; ++n)
      sum_columns(plan, weight_sums.sum[n], scratch, mine + (n << plan.channels_log2), plan.channels());
  } else {
    __syncthreads();
    for (int i = int(threadIdx.x); i < partial.weight; i += int(blockDim.x)) mine[i] = weight_sums.sum[i];
  }
  if (kModulated) {
    A sums[V];
    load<V>(own.mask_weight(), sums);
    sum_columns(plan, sums, scratch, mine + partial.weight, plan.channels());
    const A bias[V] = {*own.mask_bias()};  // the same in all lanes: channel 0 has it
    sum_columns(plan, bias, scratch, mine + partial.mask_weight, 1);
  }
}

template <class T, int K>
int64_t workspace(const Backward& p) {
  const Plan plan = plan_of<T, K>(p);
  return plan.blocks(p.batch) * Partial(plan, p.kernel_size).elements * int64_t(sizeof(Accumulator<T>));
}

template <class T, int K>
MrdaCudaStatus backward(const Backward& p, void* memory, void* stream) {
  using A = Accumulator<T>;
  const Plan plan = plan_of<T, K>(p);
  const Access grad_input = access<T>(p, p.grad_input, 1 << kVectorLog2<T>);  // a thread's channels are the run there
  const Access input = access<T>(p, p.input), grad_output = access<T>(p, p.grad_output);
  const Arguments<A> a{p, plan, slopes_of<A>(p), input, grad_output, grad_input, static_cast<A*>(memory)};
  const bool vectors = input == Access::kChannels && grad_output == Access::kChannels &&
                       grad_input == Access::kChannels && !p.residual.data;
  const auto kernel = p.mask_channels ? (vectors ? backward_kernel<T, K, true, true> : backward_kernel<T, K, true, false>)
                                      : (vectors ? backward_kernel<T, K, false, true> : backward_kernel<T, K, false, false>);
  const SharedMemory<T, K> shared(plan, p.kernel_size);
  const MrdaCudaStatus first =
      launch("rda_conv_backward", kernel, plan.blocks(p.batch), dim3(plan.threads()), shared.total, stream, a);
  if (first.code) return first;

  const Partial partial(plan, p.kernel_size);
  const int most = partial.weight > plan.channels() + 1 ? partial.weight : plan.channels() + 1;
  const ReduceArguments<A> r{p, plan, a.partials, (most + kTile - 1) / kTile};
  const int64_t sums = p.batch * plan.chunks + (p.mask_channels ? 1 : 0);
  return launch("rda_conv_reduce", reduce_kernel<T>, sums * r.groups, dim3(kTile * kTile),
                kTile * (kTile + 1) * int64_t(sizeof(A)), stream, r);
}

template <class T>
bool fuses(const RdaConvParams& p) {
  return (p.kernel_size == 3 ? plan_of<T, 3>(p) : plan_of<T, 0>(p)).chunks == 1;
}

}  // namespace

bool forward_fuses(const RdaConvParams& p);  // forward.cu

}  // namespace gpu
}  // namespace mrda

using namespace mrda;

extern "C" bool mrda_cuda_fuses(const RdaConvParams* p, bool backward) {
  if (p->mask_channels != 1) return false;
  if (!backward) return gpu::forward_fuses(*p);
  return gpu::with_element_type(p->dtype, [&](auto element) { return gpu::fuses<decltype(element)>(*p); });
}

extern "C" int64_t mrda_cuda_backward_workspace(const gpu::Backward* p) {
  return gpu::with_element_type(p->dtype, [&](auto element) {
    using T = decltype(element);
    return p->kernel_size == 3 ? gpu::workspace<T, 3>(*p) : gpu::workspace<T, 0>(*p);
  });
}

extern "C" MrdaCudaStatus mrda_cuda_backward(const gpu::Backward* p, void* workspace, int device, void* stream) {
  return gpu::on_device(*p, device, [&] {
    return gpu::with_element_type(p->dtype, [&](auto element) {
      using T = decltype(element);
      return p->kernel_size == 3 ? gpu::backward<T, 3>(*p, workspace, stream) : gpu::backward<T, 0>(*p, workspace, stream);
    });
  });
}
