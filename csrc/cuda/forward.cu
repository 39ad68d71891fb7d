// Forward of the RDA convolution on a GPU; and, for logits that are in memory, the elementwise half of its backward.
#include "taps.cuh"

namespace mrda {
namespace gpu {
namespace {

template <class T>
constexpr int kVectorLog2 = log2_of_vector<T>();  // channels of a thread: 16 bytes
template <class T, int K>
constexpr int kThreads = K && sizeof(T) == 2 ? 128 : 256;
// On a multiprocessor, at least: that leaves 168 registers for 8 channels a thread, else 128.
template <class T, int K>
constexpr int kBlocks = K && sizeof(T) == 2 ? 3 : 2;
template <int K>
constexpr int kMaxLanesLog2 = K ? 5 : 4;  // in one warp; with kernels in shared memory, to keep a block's below 96 KiB

template <class T, int K>
Plan plan_of(const RdaConvParams& p) {
  return make_plan<T>(p, kThreads<T, K>, kPixels<K>, kVectorLog2<T>, kMaxLanesLog2<K>, 0);
}

// Rows in shared memory: those that a result needs, and `kAhead` under way.
template <int K>
struct Rows {
  static constexpr int kSlots = K ? 4 : 8;
  static constexpr int kAhead = K ? 2 : 1;
};

template <class T, int K>
struct SharedMemory {
  int64_t weight, mask_weight, buffer, total;

  __host__ __device__ SharedMemory(const Plan& plan, int kernel_size) {
    weight = Ring<T, Rows<K>::kSlots>::bytes(plan.columns + kernel_size - 1, plan);
    mask_weight = weight + Taps<T, K, (1 << kVectorLog2<T>)>::bytes(plan, kernel_size);
    buffer = mask_weight + plan.channels() * int64_t(sizeof(Accumulator<T>));
    total = buffer + Ring<T, 1>::bytes(plan.columns, plan);
  }
};

enum class Modulation { kNone, kSummed, kGiven };  // z as it is; logits summed over the channels; logits in memory

template <class Params, class A>
struct Arguments {
  Params p;
  Plan plan;
  Slopes<A> slopes;
  Access input_access, result_access;
};

// Walks down a strip. For each row of it calls finish(row, z, input): the convolution's sums for the thread's pixels and
// V channels, and the input's values there.
template <class T, int K, bool kVectors, class Params, class Finish>
__device__ void correlate_strip(const Arguments<Params, Accumulator<T>>& a, const Place& place, unsigned char* memory,
                                Finish finish) {
  constexpr int V = 1 << kVectorLog2<T>, P = kPixels<K>;
  using A = Accumulator<T>;
  const int size = K ? K : a.p.kernel_size, pad = size / 2;
  const Seat seat = Seat::of<V>(a.plan);
  const SharedMemory<T, K> offsets(a.plan, size);
  const Ring<T, Rows<K>::kSlots> rows(memory, a.plan.columns + 2 * pad, a.plan);
  const Taps<T, K, V> taps(a.p, a.plan, place, seat.channel, memory + offsets.weight);
  Correlation<T, K, P, V, false> correlation;

  const Image<const T> image(a.p, a.p.input, place);
  const int first_row = place.top - pad, steps = place.rows + 2 * pad, offset = seat.pixel * rows.pitch + seat.channel;
  const auto fetch = [&](int k) {
    if (k < steps) copy_row<kVectors>(image, a.input_access, a.plan, first_row + k, place.left - pad, rows, k);
    Prefetch<Rows<K>::kAhead>::mark();
  };
  for (int k = 0; k < Rows<K>::kAhead; ++k) fetch(k);
#pragma unroll 1
  for (int k = 0; k < steps; ++k) {
    Prefetch<Rows<K>::kAhead>::wait();
    __syncthreads();  // row k is there, and nobody needs the oldest one any more
    fetch(k + Rows<K>::kAhead);
    A z[P][V], x[P][V];
    correlation.push(taps, rows, k, offset, z);
    if (k < 2 * pad) continue;
#pragma unroll
    for (int p = 0; p < P; ++p) load<V>(rows.row(k - pad) + offset + (pad + p) * rows.pitch, x[p]);
    finish(first_row + k - pad, z, x);
  }
}

template <class T, int K, Modulation kModulation, bool kVectors>
__global__ void __launch_bounds__(kThreads<T, K>, kVectors ? kBlocks<T, K> : 1)
    forward_kernel(const Arguments<Forward, Accumulator<T>> a) {
  MRDA_DYNAMIC_SHARED(memory);
  constexpr int V = 1 << kVectorLog2<T>, P = kPixels<K>;
  using A = Accumulator<T>;
  const Place place(a.p, a.plan);
  const Seat seat = Seat::of<V>(a.plan);
  const Image<T> output(a.p, a.p.output, place);
  const Ring<T, 1> buffer(memory + SharedMemory<T, K>(a.plan, a.p.kernel_size).buffer, a.plan.columns, a.plan);

  A* const mask_weight = reinterpret_cast<A*>(memory + SharedMemory<T, K>(a.plan, a.p.kernel_size).mask_weight);
  A mask_bias = A(0);
  if (kModulation == Modulation::kSummed) {
    const T* from = static_cast<const T*>(a.p.mask_weight);
    for (int c = int(threadIdx.x); c < a.plan.channels(); c += int(blockDim.x))
      mask_weight[c] = c < place.channels ? widen(from[c]) : A(0);
    if (a.p.mask_bias) mask_bias = widen(*static_cast<const T*>(a.p.mask_bias));
  }

  correlate_strip<T, K, kVectors>(a, place, memory, [&](int row, A (&z)[P][V], const A (&x)[P][V]) {
    if (kModulation == Modulation::kSummed) {
      A t[P] = {}, w[V];
      load<V>(mask_weight + seat.channel, w);
#pragma unroll
      for (int p = 0; p < P; ++p)
#pragma unroll
        for (int v = 0; v < V; ++v) t[p] = add_tap(t[p], w[v], x[p][v]);
      sum_lanes(t, a.plan.lanes_log2);
#pragma unroll
      for (int p = 0; p < P; ++p) {
        const A m = sigmoid(t[p] + mask_bias);
#pragma unroll
        for (int v = 0; v < V; ++v) z[p][v] = modulate(z[p][v], m, x[p][v], a.slopes);
      }
    } else if (kModulation == Modulation::kGiven) {
      const Image<const A> logits(a.p, a.p.logits, place);
#pragma unroll
      for (int p = 0; p < P; ++p)
#pragma unroll
        for (int v = 0; v < V; ++v)
          if (place.left + seat.pixel + p < logits.width && seat.channel + v < place.channels) {
            const A m = sigmoid(*logits.at(row, place.left + seat.pixel + p, seat.channel + v));
            z[p][v] = modulate(z[p][v], m, x[p][v], a.slopes);
          }
    }
    write_row<kVectors>(output, a.result_access, a.plan, row, place.left, a.plan.columns, seat.pixel, seat.channel, z,
                        buffer);
  });
}

// T is an accumulation type here.
template <class T, int K>
__global__ void __launch_bounds__(kThreads<T, K>, 1) modulation_backward_kernel(const Arguments<ModulationBackward, T> a) {
  MRDA_DYNAMIC_SHARED(memory);
  constexpr int V = 1 << kVectorLog2<T>, P = kPixels<K>;
  const Place place(a.p, a.plan);
  const Seat seat = Seat::of<V>(a.plan);
  const Image<const T> logits(a.p, a.p.logits, place), grad_output(a.p, a.p.grad_output, place);
  const Image<T> grad_z(a.p, a.p.grad_z, place), grad_residual(a.p, a.p.grad_residual, place);
  const Image<T> grad_logits(a.p, a.p.grad_logits, place);
  const Ring<T, 1> buffer(memory + SharedMemory<T, K>(a.plan, a.p.kernel_size).buffer, a.plan.columns, a.plan);

  correlate_strip<T, K, false>(a, place, memory, [&](int row, const T (&z)[P][V], const T (&x)[P][V]) {
    T dz[P][V] = {}, residual[P][V] = {}, dt[P][V] = {};
#pragma unroll
    for (int p = 0; p < P; ++p)
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int column = place.left + seat.pixel + p, channel = seat.channel + v;
        if (column >= logits.width || channel >= place.channels) continue;
        const T m = sigmoid(*logits.at(row, column, channel));
        const ModulateGrads<T> d = modulate_backward(*grad_output.at(row, column, channel), z[p][v], m, x[p][v], a.slopes);
        dz[p][v] = d.grad_z;
        residual[p][v] = d.grad_residual;
        dt[p][v] = d.grad_m * sigmoid_slope(m);
      }
    const auto write = [&](const Image<T>& to, const T (&values)[P][V]) {
      write_row<false>(to, a.result_access, a.plan, row, place.left, a.plan.columns, seat.pixel, seat.channel, values,
                       buffer);
    };
    write(grad_z, dz);
    write(grad_residual, residual);
    write(grad_logits, dt);
  });
}

template <class T, int K, class Params>
Arguments<Params, Accumulator<T>> arguments(const Params& p, Access result_access) {
  return {p, plan_of<T, K>(p), slopes_of<Accumulator<T>>(p), access<T>(p, p.input), result_access};
}

template <class T, int K, class Params>
MrdaCudaStatus launch_strips(const char* name, void (*kernel)(Arguments<Params, Accumulator<T>>),
                             const Arguments<Params, Accumulator<T>>& a, void* stream) {
  const SharedMemory<T, K> shared(a.plan, a.p.kernel_size);
  return launch(name, kernel, a.plan.blocks(a.p.batch), dim3(a.plan.threads()), shared.total, stream, a);
}

template <class T, int K>
MrdaCudaStatus forward(const Forward& p, void* stream) {
  const Arguments<Forward, Accumulator<T>> a = arguments<T, K>(p, access<T>(p, p.output));
  const bool vectors = a.input_access == Access::kChannels && a.result_access == Access::kChannels;
  const auto kernel = p.logits.data    ? forward_kernel<T, K, Modulation::kGiven, false>
                      : p.mask_channels ? (vectors ? forward_kernel<T, K, Modulation::kSummed, true>
                                                   : forward_kernel<T, K, Modulation::kSummed, false>)
                                        : (vectors ? forward_kernel<T, K, Modulation::kNone, true>
                                                   : forward_kernel<T, K, Modulation::kNone, false>);
  return launch_strips<T, K>("rda_conv_forward", kernel, a, stream);
}

template <class T, int K>
MrdaCudaStatus modulation_backward(const ModulationBackward& p, void* stream) {
  const Access z = access<T>(p, p.grad_z), residual = access<T>(p, p.grad_residual), logits = access<T>(p, p.grad_logits);
  const Arguments<ModulationBackward, T> a = arguments<T, K>(p, z == residual && z == logits ? z : Access::kElements);
  return launch_strips<T, K>("rda_conv_modulation_backward", modulation_backward_kernel<T, K>, a, stream);
}

}  // namespace

bool forward_fuses(const RdaConvParams& p) {
  return with_element_type(p.dtype, [&](auto element) {
    using T = decltype(element);
    return (p.kernel_size == 3 ? plan_of<T, 3>(p) : plan_of<T, 0>(p)).chunks == 1;
  });
}

}  // namespace gpu
}  // namespace mrda

using namespace mrda;

extern "C" MrdaCudaStatus mrda_cuda_forward(const gpu::Forward* p, int device, void* stream) {
  return gpu::on_device(*p, device, [&] {
    return gpu::with_element_type(p->dtype, [&](auto element) {
      using T = decltype(element);
      return p->kernel_size == 3 ? gpu::forward<T, 3>(*p, stream) : gpu::forward<T, 0>(*p, stream);
    });
  });
}

extern "C" MrdaCudaStatus mrda_cuda_modulation_backward(const gpu::ModulationBackward* p, int device, void* stream) {
  return gpu::on_device(*p, device, [&] {
    const bool three = p->kernel_size == 3;
    if (p->dtype == DType::kFloat64)
      return three ? gpu::modulation_backward<double, 3>(*p, stream) : gpu::modulation_backward<double, 0>(*p, stream);
    return three ? gpu::modulation_backward<float, 3>(*p, stream) : gpu::modulation_backward<float, 0>(*p, stream);
  });
}
