// Forward of the RDA convolution on a GPU; and, for logits that are in memory, the elementwise half of its backward.
#include "taps.cuh"

namespace mrda {
namespace gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxLanesLog2 = 5;         // a pixel's lanes are in one warp
constexpr int kMaxLanesLog2General = 4;  // where the kernels are in shared memory: keeps a block's below 96 KiB

template <class T>
constexpr int kVectorLog2 = log2_of_vector<T>();  // channels of a thread: 16 bytes

template <class T, int K>
Plan plan_of(const RdaConvParams& p) {
  return make_plan<T>(p, kThreads, kVectorLog2<T>, K ? kMaxLanesLog2 : kMaxLanesLog2General, 0);
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
    weight = Ring<T>::bytes(plan.columns + kernel_size - 1, plan, Rows<K>::kSlots);
    mask_weight = weight + Taps<T, K, (1 << kVectorLog2<T>)>::bytes(plan, kernel_size);
    buffer = mask_weight + plan.channels() * int64_t(sizeof(Accumulator<T>));
    total = buffer + Ring<T>::bytes(plan.columns, plan, 1);
  }
};

enum class Modulation { kNone, kSummed, kGiven };  // z as it is; logits summed over the channels; logits in memory

template <class Params>
struct Arguments {
  Params p;
  Plan plan;
  Access input_access, result_access;
};

// Walks down a strip. For each row of it calls finish(row, z, input): the convolution's sums for the thread's pixel and
// V channels, and the input's values there.
template <class T, int K, bool kVectors, class Params, class Finish>
__device__ void correlate_strip(const Arguments<Params>& a, const Place& place, unsigned char* memory, Finish finish) {
  constexpr int V = 1 << kVectorLog2<T>;
  using A = Accumulator<T>;
  const int size = K ? K : a.p.kernel_size, pad = size / 2;
  const int pixel = int(threadIdx.x) >> a.plan.lanes_log2;
  const int channel = (int(threadIdx.x) & ((1 << a.plan.lanes_log2) - 1)) * V;
  const SharedMemory<T, K> offsets(a.plan, size);
  const Ring<T> rows(memory, a.plan.columns + 2 * pad, a.plan, Rows<K>::kSlots);
  const Taps<T, K, V> taps(a.p, a.plan, place, channel, memory + offsets.weight);
  Correlation<T, K, V, false> correlation;

  const Image<const T> image(a.p, a.p.input, place);
  const RowCopy<T, kVectors> copy(image, a.input_access, a.plan, place.left - pad, rows);
  const int first_row = place.top - pad, steps = place.rows + 2 * pad, offset = pixel * rows.pitch + channel;
  const auto fetch = [&](int k) {
    if (k < steps) copy(a.plan, first_row + k, rows, k);
    Prefetch<Rows<K>::kAhead>::mark();
  };
  for (int k = 0; k < Rows<K>::kAhead; ++k) fetch(k);
#pragma unroll 1
  for (int k = 0; k < steps; ++k) {
    Prefetch<Rows<K>::kAhead>::wait();
    __syncthreads();  // row k is there, and nobody needs the oldest one any more
    fetch(k + Rows<K>::kAhead);
    A z[V], x[V];
    correlation.push(taps, rows, k, offset, z);
    if (k < 2 * pad) continue;
    load<V>(rows.row(k - pad) + offset + pad * rows.pitch, x);
    finish(first_row + k - pad, z, x);
  }
}

// Two blocks on a multiprocessor leave 128 registers a thread, which is enough for the usual way.
template <class T, int K, Modulation kModulation, bool kVectors>
__global__ void __launch_bounds__(kThreads, kVectors ? 2 : 1)
    forward_kernel(const Arguments<Forward> a) {
  MRDA_DYNAMIC_SHARED(memory);
  constexpr int V = 1 << kVectorLog2<T>;
  using A = Accumulator<T>;
  const Place place(a.p, a.plan);
  const int pixel = int(threadIdx.x) >> a.plan.lanes_log2;
  const int channel = (int(threadIdx.x) & ((1 << a.plan.lanes_log2) - 1)) * V;
  const Slopes<A> slopes{A(a.p.negative_slope), A(a.p.output_negative_slope)};
  const Image<T> output(a.p, a.p.output, place);
  const Ring<T> buffer(memory + SharedMemory<T, K>(a.plan, a.p.kernel_size).buffer, a.plan.columns, a.plan, 1);

  A* const mask_weight = reinterpret_cast<A*>(memory + SharedMemory<T, K>(a.plan, a.p.kernel_size).mask_weight);
  A mask_bias = A(0);
  if (kModulation == Modulation::kSummed) {
    const T* from = static_cast<const T*>(a.p.mask_weight);
    for (int c = int(threadIdx.x); c < a.plan.channels(); c += int(blockDim.x))
      mask_weight[c] = c < place.channels ? widen(from[c]) : A(0);
    if (a.p.mask_bias) mask_bias = widen(*static_cast<const T*>(a.p.mask_bias));
  }

  correlate_strip<T, K, kVectors>(a, place, memory, [&](int row, A (&z)[V], const A (&x)[V]) {
    if (kModulation == Modulation::kSummed) {
      A t = A(0), w[V];
      load<V>(mask_weight + channel, w);
#pragma unroll
      for (int v = 0; v < V; ++v) t = add_tap(t, w[v], x[v]);
      const A m = sigmoid(sum_lanes(t, a.plan.lanes_log2) + mask_bias);
#pragma unroll
      for (int v = 0; v < V; ++v) z[v] = modulate(z[v], m, x[v], slopes);
    } else if (kModulation == Modulation::kGiven) {
      const Image<const A> logits(a.p, a.p.logits, place);
      const int column = place.left + pixel;
#pragma unroll
      for (int v = 0; v < V; ++v)
        if (column < logits.width && channel + v < place.channels)
          z[v] = modulate(z[v], sigmoid(*logits.at(row, column, channel + v)), x[v], slopes);
    }
    write_row<kVectors, V>(output, a.result_access, a.plan, row, place.left, a.plan.columns, pixel, channel, z, buffer);
  });
}

// T is an accumulation type here.
template <class T, int K>
__global__ void __launch_bounds__(kThreads, 1) modulation_backward_kernel(const Arguments<ModulationBackward> a) {
  MRDA_DYNAMIC_SHARED(memory);
  constexpr int V = 1 << kVectorLog2<T>;
  const Place place(a.p, a.plan);
  const int pixel = int(threadIdx.x) >> a.plan.lanes_log2;
  const int channel = (int(threadIdx.x) & ((1 << a.plan.lanes_log2) - 1)) * V;
  const Slopes<T> slopes{T(a.p.negative_slope), T(a.p.output_negative_slope)};
  const Image<const T> logits(a.p, a.p.logits, place), grad_output(a.p, a.p.grad_output, place);
  const Image<T> grad_z(a.p, a.p.grad_z, place), grad_residual(a.p, a.p.grad_residual, place);
  const Image<T> grad_logits(a.p, a.p.grad_logits, place);
  const Ring<T> buffer(memory + SharedMemory<T, K>(a.plan, a.p.kernel_size).buffer, a.plan.columns, a.plan, 1);

  correlate_strip<T, K, false>(a, place, memory, [&](int row, const T (&z)[V], const T (&x)[V]) {
    T dz[V] = {}, residual[V] = {}, dt[V] = {};
    const int column = place.left + pixel;
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (column < logits.width && channel + v < place.channels) {
        const T m = sigmoid(*logits.at(row, column, channel + v));
        const ModulateGrads<T> d = modulate_backward(*grad_output.at(row, column, channel + v), z[v], m, x[v], slopes);
        dz[v] = d.grad_z;
        residual[v] = d.grad_residual;
        dt[v] = d.grad_m * sigmoid_slope(m);
      }
    const auto write = [&](const Image<T>& to, const T (&values)[V]) {
      write_row<false, V>(to, a.result_access, a.plan, row, place.left, a.plan.columns, pixel, channel, values, buffer);
    };
    write(grad_z, dz);
    write(grad_residual, residual);
    write(grad_logits, dt);
  });
}

template <class T, int K, class Params>
Arguments<Params> arguments(const Params& p, Access result_access) {
  return {p, plan_of<T, K>(p), access<T>(p, p.input), result_access};
}

template <class T, int K, class Params>
MrdaCudaStatus launch_strips(const char* name, void (*kernel)(Arguments<Params>), const Arguments<Params>& a, void* stream) {
  const SharedMemory<T, K> shared(a.plan, a.p.kernel_size);
  return launch(name, kernel, a.plan.blocks(a.p.batch), dim3(a.plan.threads()), shared.total, stream, a);
}

template <class T, int K>
MrdaCudaStatus forward(const Forward& p, void* stream) {
  const Arguments<Forward> a = arguments<T, K>(p, access<T>(p, p.output));
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
  const Arguments<ModulationBackward> a = arguments<T, K>(p, z == residual && z == logits ? z : Access::kElements);
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
  return gpu::on_device(device, [&] {
    return gpu::with_element_type(p->dtype, [&](auto element) {
      using T = decltype(element);
      return p->kernel_size == 3 ? gpu::forward<T, 3>(*p, stream) : gpu::forward<T, 0>(*p, stream);
    });
  });
}

extern "C" MrdaCudaStatus mrda_cuda_modulation_backward(const gpu::ModulationBackward* p, int device, void* stream) {
  return gpu::on_device(device, [&] {
    const bool three = p->kernel_size == 3;
    if (p->dtype == DType::kFloat64)
      return three ? gpu::modulation_backward<double, 3>(*p, stream) : gpu::modulation_backward<double, 0>(*p, stream);
    return three ? gpu::modulation_backward<float, 3>(*p, stream) : gpu::modulation_backward<float, 0>(*p, stream);
  });
}
