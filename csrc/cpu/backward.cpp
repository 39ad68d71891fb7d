// SPDX-License-Identifier: Apache-2.0
// Backward of the RDA convolution on a CPU: one pass that recomputes z and the mask, tile by tile.
// Gradients that are sums over pixels are kept per task and added up in the order of the tasks: without atomics, and
// with the same bits for any number of threads. Compiled once per instruction set.
#include "kernels.h"
#include "mask.h"

namespace mrda {
namespace MRDA_ISA {
namespace {

constexpr int64_t kScratchBytes = 768 << 10;
constexpr int64_t kTileWidth = 64, kTileHeight = 16;

// The partial sums of a task, in the order of the gradients.
template <class A>
struct Partial {
  A *weight, *mask_weight, *mask_bias;
  int64_t bytes;

  static Partial at(const RdaConvBackward& p, void* memory) {
    Bump<A> bump{static_cast<A*>(memory)};
    Partial partial{};
    partial.weight = bump.take(p.channels * p.kernel_size * p.kernel_size);
    partial.mask_weight = bump.take(p.mask_channels * p.channels);
    partial.mask_bias = bump.take(p.mask_channels);
    partial.bytes = bump.used * int64_t(sizeof(A));
    return partial;
  }
};

template <class A>
struct BackwardBuffers {
  A *weight, *x, *grad, *grad_z, *mask, *grad_mask;
  A *weight_sums, *mask_weight_sums, *mask_bias_sums;  // lanes that a task accumulates over its tiles
};

template <class T, class A = Accumulator<T>>
struct BackwardCall {
  Geometry<A> geometry;
  BackwardBuffers<A> buffer;
  MaskWeights<A> mask_weights;
  int64_t input_halo;
  int64_t sums_elements;
  int64_t scratch_bytes;

  static BackwardCall at(const RdaConvBackward& p, Geometry<A> geometry, A* memory) {
    Bump<A> scratch{memory};
    BackwardCall call{geometry, {}, pack_mask<T>(p, geometry, true, scratch), 0, 0, 0};
    const int64_t pad = geometry.pad, lanes = geometry.groups * kLanes<A>;
    const bool full = MaskWeights<A>::full(p);
    BackwardBuffers<A>& buffer = call.buffer;
    call.input_halo = p.mask_channels ? 2 * pad : pad;  // z is needed around the tile, and x around that z
    buffer.weight = scratch.take(TapWeights<A>::elements(geometry));
    buffer.x = scratch.take(geometry.region_elements(call.input_halo));
    buffer.grad = scratch.take(geometry.region_elements(pad));
    buffer.grad_z = p.mask_channels ? scratch.take(geometry.region_elements(pad)) : buffer.grad;
    buffer.mask = scratch.take(mask_elements(p, geometry, pad));
    buffer.grad_mask = scratch.take(mask_elements(p, geometry, pad));
    const int64_t sums = scratch.used;
    buffer.weight_sums = scratch.take(lanes * geometry.kernel_size * geometry.kernel_size);
    buffer.mask_weight_sums = scratch.take(full ? channel_matrix_elements(geometry) : lanes);
    buffer.mask_bias_sums = scratch.take(lanes);
    call.sums_elements = scratch.used - sums;
    call.scratch_bytes = scratch.used * int64_t(sizeof(A));
    return call;
  }

  static BackwardCall make(const RdaConvBackward& p, void* memory) {
    Geometry<A> geometry(p, kTileWidth, p.kernel_size / 2 * 2);
    geometry.tile_height = minimum(p.height, kTileHeight);
    while (geometry.tile_height > 1 && at(p, geometry, nullptr).scratch_bytes > kScratchBytes) --geometry.tile_height;
    return at(p, geometry, static_cast<A*>(memory));
  }
};

// Replaces grad, of the result, by the gradient of the `+ input` term; writes grad_z and grad_mask.
template <int K, bool kChannelsLast, class T, class A = Accumulator<T>>
void differentiate_result(const RdaConvBackward& p, const BackwardCall<T>& call, TapWeights<A> weight, Region<A> x,
                          Region<A> mask, Region<A> grad, Region<A> grad_z, Region<A> grad_mask) {
  const Slopes<Vec<A>> slopes{splat(A(p.negative_slope)), splat(A(p.output_negative_slope))};
  const Region<A> center = x.inner(call.geometry.pad, grad.rows, grad.steps);
  for (int64_t g = 0; g < call.geometry.groups; ++g) {
    const bool add = g > 0 && grad_mask.group == 0;  // a mask that all groups share
    Vec<A> taps[kMaxTaps<K>];
    weight.template get<K>(g, false, taps);
    for (int64_t r = 0; r < grad.rows; ++r) {
      for (int64_t s = 0; s < grad.steps; ++s) {
        const Vec<A> z = correlate<K, kChannelsLast>(x, x.at(g, r, s), taps, call.geometry.kernel_size);
        const MaskGrads<Vec<A>> d = apply_mask_backward(load(grad.at(g, r, s)), z, load(mask.at(g, r, s)),
                                                          load(center.at(g, r, s)), slopes);
        store(grad.at(g, r, s), d.grad_residual);
        store(grad_z.at(g, r, s), d.grad_z);
        store(grad_mask.at(g, r, s), add ? load(grad_mask.at(g, r, s)) + d.grad_mask : d.grad_mask);
      }
    }
  }
}

// Replaces grad_mask by the gradient of the mask's logits, before the sigmoid. Lanes that are channels of one shared
// mask are added up.
template <class A>
void differentiate_sigmoid(const Geometry<A>& geometry, bool full, Region<A> mask, Region<A> grad_mask) {
  const bool sum_lanes = !full && geometry.channels_last;
  for (int64_t g = 0; g < (full ? geometry.groups : 1); ++g)
    for (int64_t r = 0; r < mask.rows; ++r)
      for (int64_t s = 0; s < mask.steps; ++s) {
        Vec<A> grad = load(grad_mask.at(g, r, s));
        if (sum_lanes) grad = splat(horizontal_sum<A>(grad));
        store(grad_mask.at(g, r, s), grad * sigmoid_slope(load(mask.at(g, r, s))));
      }
}

template <int K, bool kChannelsLast, class T, class A = Accumulator<T>>
void write_grad_input(const RdaConvBackward& p, const BackwardCall<T>& call, TapWeights<A> weight, Region<A> grad_z,
                      Region<A> residual, Region<A> grad_mask_logits, Position tile) {
  const Geometry<A>& geometry = call.geometry;
  const bool masked = p.mask_channels > 0, shared = p.mask_channels == 1;
  for (int64_t g = 0; g < geometry.groups; ++g) {
    Vec<A> taps[kMaxTaps<K>], mask_weight{};
    weight.template get<K>(g, true, taps);
    if (shared) mask_weight = geometry.channels_last ? load(call.mask_weights.forward.data + g * kLanes<A>)
                                                     : splat(call.mask_weights.forward.data[g]);
    for (int64_t r = 0; r < residual.rows; ++r) {
      const ResultRow<T> out(p, p.grad_input, tile.sample, g, tile.top + r, tile.left);
      for (int64_t s = 0; s < residual.steps; ++s) {
        Vec<A> v = correlate<K, kChannelsLast>(grad_z, grad_z.at(g, r, s), taps, geometry.kernel_size);
        if (masked) v += load(residual.at(g, r, s));
        if (shared) v += mask_weight * load(grad_mask_logits.at(g, r, s));
        out.write(s, v);
      }
    }
  }
}

template <int K, bool kChannelsLast, class A>
void add_grad_weight(const Geometry<A>& geometry, Region<A> x, Region<A> grad_z, A* sums) {
  const int64_t k = K == kAnyKernelSize ? geometry.kernel_size : K;
  for (int64_t g = 0; g < geometry.groups; ++g) {
    Vec<A> sum[kMaxTaps<K>];
    A* to = sums + g * k * k * kLanes<A>;
#pragma GCC unroll 9
    for (int64_t i = 0; i < k * k; ++i) sum[i] = load(to + i * kLanes<A>);
    for (int64_t r = 0; r < grad_z.rows; ++r)
      for (int64_t s = 0; s < grad_z.steps; ++s) {
        const Vec<A> d = load(grad_z.at(g, r, s));
        const A* from = x.at(g, r, s);
#pragma GCC unroll 3
        for (int64_t i = 0; i < k; ++i)
#pragma GCC unroll 3
          for (int64_t j = 0; j < k; ++j) {
            const int64_t n = i * k + j;
            sum[n] = add_tap(sum[n], d, load(from + i * x.row + j * (kChannelsLast ? x.tap : 1)));
          }
      }
#pragma GCC unroll 9
    for (int64_t i = 0; i < k * k; ++i) store(to + i * kLanes<A>, sum[i]);
  }
}

// sums[g] += sum over the tile of x[g] * d, with d shared by all groups; and sum[0] += d.
template <class A>
void add_grad_shared_mask(const Geometry<A>& geometry, Region<A> x, Region<A> d, A* weight_sums, A* bias_sums) {
  for (int64_t g = 0; g < geometry.groups; ++g) {
    Vec<A> sum = load(weight_sums + g * kLanes<A>);
    for (int64_t r = 0; r < d.rows; ++r)
      for (int64_t s = 0; s < d.steps; ++s) sum += load(x.at(g, r, s)) * load(d.at(0, r, s));
    store(weight_sums + g * kLanes<A>, sum);
  }
  Vec<A> sum = load(bias_sums);
  for (int64_t r = 0; r < d.rows; ++r)
    for (int64_t s = 0; s < d.steps; ++s) sum += load(d.at(0, r, s));
  store(bias_sums, sum);
}

// The same for one mask per channel: a matrix product over the tile's pixels. The sums have ChannelMatrix's layout.
template <class A>
void add_grad_full_mask(const Geometry<A>& geometry, Region<A> x, Region<A> d, A* weight_sums, A* bias_sums) {
  constexpr int64_t L = kLanes<A>;
  constexpr int64_t kBlock = 4;
  for (int64_t g = 0; g < geometry.groups; ++g) {
    Vec<A> bias = load(bias_sums + g * L);
    for (int64_t r = 0; r < d.rows; ++r)
      for (int64_t s = 0; s < d.steps; ++s) bias += load(d.at(g, r, s));
    store(bias_sums + g * L, bias);
    for (int64_t c = 0; c < geometry.channels; c += kBlock) {
      const int64_t block = minimum(kBlock, geometry.channels - c);
      Vec<A> sum[kBlock]{};
      for (int64_t r = 0; r < d.rows; ++r)
        for (int64_t s = 0; s < d.steps; ++s) {
          const Vec<A> grad = load(d.at(g, r, s));
          for (int64_t i = 0; i < block; ++i)
            sum[i] += grad * (geometry.channels_last ? splat(x.channel(c + i, r, s)) : load(x.at(c + i, r, s)));
        }
      for (int64_t i = 0; i < block; ++i) {
        if (geometry.channels_last) {
          A* to = weight_sums + (c + i) * geometry.padded_channels + g * L;
          store(to, load(to) + sum[i]);
        } else {
          weight_sums[g * geometry.channels + c + i] += horizontal_sum<A>(sum[i]);
        }
      }
    }
  }
}

template <int K, bool kChannelsLast, class T, class A = Accumulator<T>>
void backward_tile(const RdaConvBackward& p, const BackwardCall<T>& call, TapWeights<A> weight, Position tile) {
  const Geometry<A>& geometry = call.geometry;
  const BackwardBuffers<A>& buffer = call.buffer;
  const int64_t pad = geometry.pad, halo = call.input_halo;
  const auto [b, top, left] = tile;
  const int64_t rows = minimum(geometry.tile_height, p.height - top);
  const int64_t columns = minimum(geometry.tile_width, p.width - left);
  const int64_t steps = geometry.steps(columns);
  // whole registers, so that every lane of a step and of its taps is written
  const int64_t wide_steps = geometry.steps(geometry.channels_last ? columns + 2 * pad : steps * kLanes<A> + 2 * pad);

  Region<A> x = geometry.region(buffer.x, halo);
  x.rows = rows + 2 * halo;
  pack<T>(p, p.input, b, top - halo, left - halo, geometry, x);
  Region<A> grad = geometry.region(buffer.grad, pad), grad_z = geometry.region(buffer.grad_z, pad);
  grad.rows = grad_z.rows = rows + 2 * pad;
  pack<T>(p, p.grad_output, b, top - pad, left - pad, geometry, grad);

  const Region<A> near_x = x.inner(halo - pad, rows + 2 * pad, steps);  // starts at the tile's first tap
  const Region<A> center_x = x.inner(halo, rows, steps);
  Region<A> grad_mask_logits{};
  if (p.mask_channels) {
    const Region<A> wide_x = x.inner(pad, grad.rows, wide_steps);
    Region<A> mask = mask_region(p, geometry, buffer.mask, pad);
    const Region<A> grad_mask = mask_region(p, geometry, buffer.grad_mask, pad);
    grad.steps = grad_z.steps = mask.steps = wide_steps;
    mask.rows = grad.rows;
    compute_mask(geometry, call.mask_weights, wide_x, mask);
    differentiate_result<K, kChannelsLast>(p, call, weight, x, mask, grad, grad_z, grad_mask);
    grad_mask_logits = grad_mask.inner(pad, rows, steps);
    differentiate_sigmoid(geometry, MaskWeights<A>::full(p), mask.inner(pad, rows, steps), grad_mask_logits);
  }
  const Region<A> residual = grad.inner(pad, rows, steps);
  const Region<A> center_grad_z = grad_z.inner(pad, rows, steps);

  add_grad_weight<K, kChannelsLast>(geometry, near_x, center_grad_z, buffer.weight_sums);
  if (p.mask_channels) {
    const auto add = MaskWeights<A>::full(p) ? add_grad_full_mask<A> : add_grad_shared_mask<A>;
    add(geometry, center_x, grad_mask_logits, buffer.mask_weight_sums, buffer.mask_bias_sums);
  }
  if (MaskWeights<A>::full(p)) mix_channels<true>(geometry, grad_mask_logits, call.mask_weights.backward, residual);
  write_grad_input<K, kChannelsLast>(p, call, weight, grad_z, residual, grad_mask_logits, tile);
}

// From lanes to numbers: `terms` registers for each group.
template <class A>
void collect(const Geometry<A>& geometry, const A* sums, int64_t terms, A* to) {
  constexpr int64_t L = kLanes<A>;
  for (int64_t c = 0; c < geometry.channels; ++c)
    for (int64_t i = 0; i < terms; ++i)
      to[c * terms + i] = geometry.channels_last ? sums[(c / L * terms + i) * L + c % L]
                                                 : horizontal_sum<A>(load(sums + (c * terms + i) * L));
}

template <class A>
void collect_mask(const RdaConvBackward& p, const Geometry<A>& geometry, const BackwardBuffers<A>& buffer,
                  Partial<A> partial) {
  if (MaskWeights<A>::full(p)) {
    collect(geometry, buffer.mask_bias_sums, 1, partial.mask_bias);
    for (int64_t m = 0; m < p.channels; ++m)
      for (int64_t c = 0; c < p.channels; ++c)
        partial.mask_weight[m * p.channels + c] =
            buffer.mask_weight_sums[geometry.channels_last ? c * geometry.padded_channels + m : m * p.channels + c];
  } else {
    collect(geometry, buffer.mask_weight_sums, 1, partial.mask_weight);
    const Vec<A> bias = load(buffer.mask_bias_sums);
    partial.mask_bias[0] = geometry.channels_last ? bias[0] : horizontal_sum<A>(bias);
  }
}

template <class T>
void backward_task(const RdaConvBackward& p, int64_t task, void* memory, void* partial_memory) {
  using A = Accumulator<T>;
  const BackwardCall<T> call = BackwardCall<T>::make(p, memory);
  const Cut c = cut(p, call.geometry);
  const int64_t b = task / c.tasks_per_sample, share = task % c.tasks_per_sample;
  const TapWeights<A> weight = pack_weight<T>(p, b, call.geometry, call.buffer.weight);
  fill_zero(call.buffer.weight_sums, call.sums_elements);
  const bool three = p.kernel_size == 3;
  const auto nchw = three ? backward_tile<3, false, T> : backward_tile<kAnyKernelSize, false, T>;
  const auto channels_last = three ? backward_tile<3, true, T> : backward_tile<kAnyKernelSize, true, T>;
  const auto tile_function = p.channels_last ? channels_last : nchw;
  for (int64_t tile = c.first_tile(share); tile < c.first_tile(share + 1); ++tile) {
    tile_function(p, call, weight, c.position(call.geometry, b, tile));
  }
  const Partial<A> partial = Partial<A>::at(p, partial_memory);
  collect(call.geometry, call.buffer.weight_sums, weight.taps, partial.weight);
  if (p.mask_channels) collect_mask(p, call.geometry, call.buffer, partial);
}

template <class T>
Plan backward_plan(const RdaConvBackward& p) {
  using A = Accumulator<T>;
  const BackwardCall<T> call = BackwardCall<T>::make(p, nullptr);
  return {p.batch * cut(p, call.geometry).tasks_per_sample, call.scratch_bytes, Partial<A>::at(p, nullptr).bytes};
}

template <class A>
void add(A* to, const A* from, int64_t n, bool first) {
  for (int64_t i = 0; i < n; ++i) to[i] = first ? from[i] : to[i] + from[i];
}

template <class T>
void reduce_partials(const RdaConvBackward& p, const void* memory) {
  using A = Accumulator<T>;
  const Plan plan = backward_plan<T>(p);
  const int64_t taps = int64_t(p.kernel_size) * p.kernel_size;
  const int64_t tasks_per_sample = plan.tasks / p.batch;
  for (int64_t task = 0; task < plan.tasks; ++task) {
    const Partial<A> partial =
        Partial<A>::at(p, const_cast<char*>(static_cast<const char*>(memory)) + task * plan.partial_bytes);
    A* sample = static_cast<A*>(p.grad_weight) + task / tasks_per_sample * p.channels * taps;
    add(sample, partial.weight, p.channels * taps, task % tasks_per_sample == 0);
    if (p.mask_channels) {
      add(static_cast<A*>(p.grad_mask_weight), partial.mask_weight, p.mask_channels * p.channels, task == 0);
      add(static_cast<A*>(p.grad_mask_bias), partial.mask_bias, p.mask_channels, task == 0);
    }
  }
}

}  // namespace

Plan plan_backward(const RdaConvBackward& p) {
  switch (p.dtype) {
    case DType::kFloat64: return backward_plan<double>(p);
    case DType::kBFloat16: return backward_plan<BFloat16>(p);
    case DType::kFloat16: return backward_plan<Float16>(p);
    default: return backward_plan<float>(p);
  }
}

void backward(const RdaConvBackward& p, int64_t task, void* scratch, void* partial) {
  switch (p.dtype) {
    case DType::kFloat64: return backward_task<double>(p, task, scratch, partial);
    case DType::kBFloat16: return backward_task<BFloat16>(p, task, scratch, partial);
    case DType::kFloat16: return backward_task<Float16>(p, task, scratch, partial);
    default: return backward_task<float>(p, task, scratch, partial);
  }
}

void reduce(const RdaConvBackward& p, const void* partial) {
  if (p.dtype == DType::kFloat64) reduce_partials<double>(p, partial);
  else reduce_partials<float>(p, partial);
}

}  // namespace MRDA_ISA
}  // namespace mrda
