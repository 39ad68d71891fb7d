// SPDX-License-Identifier: Apache-2.0
// Backward of the RDA convolution, by strips: a thread takes 4 pixels by 4 channels, of which the outermost pixels of a
// strip are halo.
//
// A step takes a row of the input, and makes z of the row above it, and with grad_output its grad_z, which goes into
// shared memory. The next step, after the barrier that both need, correlates that row of grad_z. So the gradient that
// does not come through the convolution begins the sums that it belongs to, and needs no memory of its own.
//
// A row of 16-bit elements is converted to float once, a step before it is needed, and not each of the ten times that
// it is read. Then its mask is made too, for whose logit tensor cores take the elements as they are.
#include "reduction.cuh"
#include "strip.cuh"

namespace mrda {
namespace gpu {
namespace {

// kLanes lanes share a pixel.
template <class T_, int kLanes_>
struct Grad {
  using T = T_;
  static constexpr int kLanes = kLanes_, kChannels = kLanes * 4;
  static constexpr int kColumns = kStripThreads / kLanes * 4, kTile = kColumns - 2;
  static constexpr bool kConverts = sizeof(T) == 2;
  static constexpr int kLead = kConverts ? 1 : 0;  // steps from a row's arrival to its use
  // Pixels of a row of the input; whole warps convert it.
  static constexpr int kVectors = kChannels / kVector<T>, kPixelsPerWarp = 32 / kVectors;
  static constexpr int kStored =
      kConverts ? (kColumns + 1 + kPixelsPerWarp) / kPixelsPerWarp * kPixelsPerWarp : kColumns + 2;
  // From pixel to pixel. Those that are 4 apart, and 8 in a row of `kPitchArrived`, are in different banks.
  static constexpr int kPitchX = kChannels * 4 + (kConverts && kChannels == 32 ? 16 : 0);
  static constexpr int kPitchArrived = kChannels * int(sizeof(T)) + 16;
  static constexpr int kPitchGrad = kChannels * int(sizeof(T)) + (kChannels * sizeof(T) < 128 ? 16 : 0);
  static constexpr int kPitchZ = kChannels * 4, kRowZ = (kColumns + 2) * kPitchZ;
  using InputRing = RowRing<kStored * kPitchX, kConverts ? 4 : kRowsAhead + 3>;
  // Rows of the input, if they are converted, and beside each that of grad_output.
  static constexpr int kGrads = kConverts ? kStored * kPitchArrived : 0;
  using ArrivedRing = RowRing<kGrads + kColumns * kPitchGrad, kRowsAhead + 1>;
  static constexpr int kArrived = InputRing::kBytes, kZ = kArrived + ArrivedRing::kBytes;
  static constexpr int kMaskWeight = kZ + 2 * kRowZ, kMaskWeightBytes = kConverts ? (kLanes == 32 ? 256 : 128) : 0;
  static constexpr int kRingBytes = kMaskWeight + kMaskWeightBytes;
  // At the end, the threads' sums: vectors of 4 channels for 9 taps and mask_weight, and mask_bias.
  static constexpr int kSumBytes = kStripThreads * (10 * 16 + 4);
  static constexpr int kSharedBytes = kRingBytes > kSumBytes ? kRingBytes : kSumBytes;
  static constexpr int kBlocks = 2;  // on a multiprocessor

  // A thread's 4 channels are 16 bytes times its lane into a pixel of floats. The halves of a converted vector of 8
  // channels are apart there, so that neighbouring vectors are written to different banks: of 64 channels at a time,
  // the first halves come first.
  static constexpr int kTogether = kLanes < 16 ? kLanes : 16;
  static __device__ __forceinline__ int channel(int lane) {
    if (!kConverts) return lane * 4;
    return lane / kTogether * 64 + lane % (kTogether / 2) * 8 + lane / (kTogether / 2) % 2 * 4;
  }
};

template <class T>
struct GradParams : StripParams<T> {
  Rows<const T> grad_output;
  Rows<T> grad_input;
  float* partials;
  GradParams(const Backward& p, const StripPlan& plan, void* workspace)
      : StripParams<T>(p, plan), grad_output(p.grad_output), grad_input(p.grad_input),
        partials(static_cast<float*>(workspace)) {}
};

// As reduction.cuh counts a block's partial sums.
template <int kLanes>
Tiling tiling_of(const StripPlan& plan) {
  Tiling tiling{};
  tiling.channels_log2 = kLanes == 8 ? 5 : kLanes == 16 ? 6 : 7;
  tiling.channel_chunks = 1;
  tiling.row_tiles = plan.tiles;
  tiling.column_tiles = plan.strips;
  return tiling;
}

// Makes floats of rows that have arrived, and their pixels' masks. The whole block calls it.
template <class Config>
class RowConverter {
  using T = typename Config::T;
  static constexpr int kLanes = Config::kLanes, kVectors = Config::kVectors;
  static constexpr int kPitchX = Config::kPitchX, kPitchArrived = Config::kPitchArrived;
  static constexpr bool kByHalves = kLanes > 8;  // a product's lower rows are the same pixels, other channels
  static constexpr int kParts = Config::kMaskWeightBytes / 128;

 public:
  __device__ __forceinline__ RowConverter(const GradParams<T>& p, unsigned char* memory, uint32_t shared)
      : warp_(int(threadIdx.x) >> 5), bias_(p.bias()) {
    const int lane = int(threadIdx.x) & 31, vector = int(threadIdx.x) % kVectors, pixel = pixel_of_vector<kVectors>();
    from_ = shared + uint32_t(Config::kArrived + pixel * kPitchArrived + vector * 16);
    to_ = shared + uint32_t(pixel * kPitchX + vector / 8 * 256 + vector % 8 * 16);
    // First factor: a row for each of the warp's pixels, lane / 4 having the sum of those that pixel_of_lane says.
    const int row = lane & 15;
    // Of 16 pixels, each matrix of 8 rows takes those that are in different banks.
    const int of_warp = !kByHalves     ? (row & 7) / 2 * 4 + (row & 1) + (row / 8 ^ row / 4 % 2) * 2
                        : kLanes == 32 ? row & 3
                                       : row & 7;
    pixels_ = shared + uint32_t(Config::kArrived + (warp_ * (128 / kLanes) + of_warp + 1) * kPitchArrived +
                                (kByHalves ? row / 8 * Config::kChannels : 0) + lane / 16 * 16);
    // Second factor: mask_weight of the first half of the channels in the even columns, of the second in the odd ones.
    mask_weight_ = shared + uint32_t(Config::kMaskWeight + lane % 8 * 16);
    keep(pixels_);
    keep(mask_weight_);
    for (int i = int(threadIdx.x); i < kParts * 32; i += kStripThreads) {
      const int half = kByHalves ? i / 16 % 2 * (Config::kChannels / 2) : 0;
      const int channel = half + i / 32 * 32 + i % 4 * 8 + i / 4 % 4 * 2;
      reinterpret_cast<uint32_t*>(memory + Config::kMaskWeight)[i] =
          pack<T>(p.mask_weight_of(channel), p.mask_weight_of(channel + 1));
    }
  }

  // Converts the row that is at `arrived` in its ring to where `row` is in the ring of floats.
  __device__ __forceinline__ void convert(uint32_t arrived, uint32_t row) const {
    constexpr int kStep = Config::kPixelsPerWarp * kStripWarps;
#pragma unroll
    for (int first = 0; first < Config::kStored; first += kStep) {
      if (first + kStep > Config::kStored && warp_ * Config::kPixelsPerWarp + first >= Config::kStored) continue;
      uint32_t words[4];
      load_words(from_ + arrived + uint32_t(first * kPitchArrived), words);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        AlignedVector<T, 4> vector;
        memcpy(vector.data, words + 2 * half, sizeof(vector));
        float x[4];
        widen(vector, x);
        store_shared(to_ + row + uint32_t(first * kPitchX + half * Config::kTogether * 8), x);
      }
    }
  }

  // The mask of the thread's pixel pixel_of_lane in that row.
  __device__ __forceinline__ float mask(uint32_t arrived) const {
    float sum[4] = {};
#pragma unroll
    for (int part = 0; part < kParts; ++part) {  // 32 channels each, of both halves
      uint32_t weight[4];
      load_words(mask_weight_ + uint32_t(part * 128), weight);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t x[4];
        load_matrices(pixels_ + arrived + uint32_t(part * 64 + i * 32), x);
        multiply_add(T(), sum, x, weight[2 * i], weight[2 * i + 1], sum);
      }
    }
    if (kByHalves) return sigmoid(sum[0] + sum[3] + bias_);
    return sigmoid(((threadIdx.x >> 1 ^ threadIdx.x >> 4) & 1 ? sum[2] : sum[0]) + bias_);
  }

 private:
  const int warp_;
  const float bias_;
  uint32_t from_, to_, pixels_, mask_weight_;
};

// In its place for rows of floats.
struct NoConverter {
  template <class Params>
  __device__ __forceinline__ NoConverter(const Params&, unsigned char*, uint32_t) {}
};

template <class Config>
__global__ void __launch_bounds__(kStripThreads, Config::kBlocks)
    strip_backward_kernel(const __grid_constant__ GradParams<typename Config::T> p) {
  MRDA_DYNAMIC_SHARED(memory);
  using T = typename Config::T;
  using InputRing = typename Config::InputRing;
  using ArrivedRing = typename Config::ArrivedRing;
  constexpr bool kConverts = Config::kConverts;
  constexpr int kLanes = Config::kLanes, kLead = Config::kLead;
  constexpr int kPitchX = Config::kPitchX, kPitchGrad = Config::kPitchGrad, kPitchZ = Config::kPitchZ;
  const StripTile tile(p.plan, Config::kTile, p.height);
  const int lane = int(threadIdx.x) & 31;
  const int pixel = int(threadIdx.x) / kLanes * 4, channel = Config::channel(int(threadIdx.x) % kLanes);
  float taps[9][4], mask_weight[4];
  load_taps(p, tile.sample, channel, taps, mask_weight);
  const float bias = p.bias();

  // Step k takes row k of the input, from two above the tile on, and row k - 1 of grad_output, from three above it on.
  const uint32_t shared = shared_address(memory);
  const int steps = tile.rows + 5;
  RowCopier<T, Config::kChannels, Config::kColumns + 2, kConverts ? Config::kPitchArrived : kPitchX> inputs(
      p.input, p, tile.sample, tile.top - 2, tile.left - 2, shared + (kConverts ? Config::kArrived : 0));
  RowCopier<T, Config::kChannels, Config::kColumns, kPitchGrad> grads(
      p.grad_output, p, tile.sample, tile.top - 3 - kLead, tile.left - 1, shared + Config::kArrived + Config::kGrads);
  uint32_t copied = 0, copied_input = 0;
  const auto prefetch = [&](int k) {
    if (k < steps) {
      inputs.copy(kConverts ? copied : copied_input);
      grads.copy(copied);
    }
    copied = ArrivedRing::next(copied);
    if (!kConverts) copied_input = InputRing::next(copied_input);
    __pipeline_commit();  // also without a row: wait_prior counts groups
  };
#pragma unroll 1
  for (int k = 0; k < kRowsAhead; ++k) prefetch(k);

  float begun_z[2][4][4] = {}, begun_grad[2][4][4] = {};  // as convolve_row leaves them
  float grad_weight[9][4] = {}, grad_mask_weight[4] = {}, grad_bias = 0.0f;
  const int place = int(threadIdx.x) % kLanes * 16;  // in a pixel of floats
  const uint32_t at = shared + uint32_t(pixel * kPitchX + place);
  const uint32_t grad_at =
      shared + uint32_t(Config::kArrived + Config::kGrads + pixel * kPitchGrad + channel * int(sizeof(T)));
  const uint32_t z_at = shared + uint32_t(Config::kZ + (pixel + 1) * kPitchZ + place);
  uint32_t now = kLead ? InputRing::kLast : 0, before = 0, oldest = 0, arrived = 0, z_now = 0;
  const int column = tile.left + pixel - 1;
  T* to = p.grad_input.at(tile.sample, tile.top, column) + channel;
  // Bits for pixels that this tile counts in the sums: 0 to 3 for the thread's, 4 for that of pixel_of_lane; from 5 on
  // for those that the thread writes.
  unsigned own = 0;
#pragma unroll
  for (int s = 0; s < 4; ++s) {
    const bool counts = pixel + s >= 1 && pixel + s <= Config::kTile && column + s < p.width;
    own |= unsigned(counts) << s | unsigned(counts && pixel_of_lane<kLanes>(lane) == s) << 4 |
           unsigned(counts && channel < p.channels) << (5 + s);
  }
  keep(own);
  const std::conditional_t<kConverts, RowConverter<Config>, NoConverter> converter(p, memory, shared);
  float masks[2] = {};  // of the row before, and of the latest one
#pragma unroll 1
  for (int k = -kLead; k < steps; ++k) {
    __pipeline_wait_prior(kRowsAhead - 1);
    __syncthreads();  // rows k have arrived, grad_z's latest row is complete, and all are done with the oldest rows
    prefetch(k + kLead + kRowsAhead);
    float new_mask = 0.0f;
    if constexpr (kConverts) {
      converter.convert(arrived, InputRing::next(now));
      new_mask = converter.mask(arrived);
    }

    const float zeros[4][4] = {};
    float z[4][4];
    convolve_row<float, kPitchX, false>(at + now, taps, zeros, begun_z, z);
    if (k >= 2) {
      // apply_mask_backward, with the mask as a part of the factor of z: so fewer instructions, and the gradient of the
      // mask comes times the mask.
      float x[4][4], grad_z[4][4], grad_residual[4][4], through_mask[4];
#pragma unroll
      for (int s = 0; s < 4; ++s) load_shared<float>(at + before + (1 + s) * kPitchX, x[s]);
      float mask = masks[0];  // of pixel_of_lane
      if constexpr (!kConverts) mask = sigmoid(mask_logit<kLanes>(mask_weight, x, lane) + bias);
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        const float m = __shfl_sync(0xffffffffu, mask, lane_of_pixel<kLanes>(s), kLanes);
        const float below = m * p.slopes.inner;  // the factor of a z that is not above 0
        float grad[4];
        load_shared<T>(grad_at + arrived + s * kPitchGrad, grad);
        through_mask[s] = 0.0f;
#pragma unroll
        for (int v = 0; v < 4; ++v) {
          const float factor = z[s][v] > 0.0f ? m : below;
          grad_residual[s][v] = leaky_relu_backward(grad[v], add_tap(x[s][v], z[s][v], factor), p.slopes.outer);
          grad_z[s][v] = grad_residual[s][v] * factor;
          through_mask[s] = add_tap(through_mask[s], grad_z[s][v], z[s][v]);
        }
        store_shared(z_at + z_now + s * kPitchZ, grad_z[s]);
      }
      const bool row_counts = k >= 3 && k < tile.rows + 3;
      const float grad_logit = sum_of_4<kLanes>(through_mask, lane) * (1.0f - mask);
      const float grad_logit_here = (row_counts ? own : 0) & 16 ? grad_logit : 0.0f;
      grad_bias += grad_logit_here;
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        const float through = __shfl_sync(0xffffffffu, grad_logit_here, lane_of_pixel<kLanes>(s), kLanes);
#pragma unroll
        for (int v = 0; v < 4; ++v) {
          grad_residual[s][v] = add_tap(grad_residual[s][v], mask_weight[v], through);
          grad_mask_weight[v] = add_tap(grad_mask_weight[v], through, x[s][v]);
        }
      }
      if (row_counts) {
#pragma unroll
        for (int row = 0; row < 3; ++row)
#pragma unroll
          for (int tap = 0; tap < 6; ++tap) {
            const int i = (row + 1) % 3;  // first the row whose pixels are in registers
            float taps_x[4];
            if (i == 1 && tap >= 1 && tap <= 4) memcpy(taps_x, x[tap - 1], sizeof(taps_x));
            else load_shared<float>(at + (i == 0 ? oldest : i == 1 ? before : now) + tap * kPitchX, taps_x);
#pragma unroll
            for (int s = 0; s < 4; ++s) {
              const int j = tap - s;
              // a pixel that does not count may have anything under its taps, even NaN
              if (j < 0 || j > 2 || !(own >> s & 1)) continue;
#pragma unroll
              for (int v = 0; v < 4; ++v)
                grad_weight[i * 3 + j][v] = add_tap(grad_weight[i * 3 + j][v], grad_z[s][v], taps_x[v]);
            }
          }
      }
      float grad_input[4][4];
      const uint32_t z_before = z_now ? 0u : uint32_t(Config::kRowZ);  // at first anything, for rows above the tile
      convolve_row<float, kPitchZ, true>(z_at + z_before - kPitchZ, taps, grad_residual, begun_grad, grad_input);
      if (k >= 5) {
#pragma unroll
        for (int s = 0; s < 4; ++s)
          if (own >> (5 + s) & 1) store<4>(to + int64_t(s) * p.grad_input.pixel_stride, grad_input[s]);
        to += p.grad_input.row_stride;
      }
    }
    z_now = z_now ? 0u : uint32_t(Config::kRowZ);
    oldest = before;
    before = now;
    now = InputRing::next(now);
    arrived = ArrivedRing::next(arrived);
    masks[0] = masks[1];
    masks[1] = new_mask;
  }

  // Sums over the block's columns of threads, in order.
  __syncthreads();
  float* const sums = reinterpret_cast<float*>(memory);  // [number][column of threads][channel]
  constexpr int kThreadColumns = kStripThreads / kLanes, kChannels = Config::kChannels;
#pragma unroll
  for (int n = 0; n < 10; ++n)
    store<4>(sums + n * kStripThreads * 4 + int(threadIdx.x) / kLanes * kChannels + channel,
             n < 9 ? grad_weight[n] : grad_mask_weight);
  float* const bias_sums = sums + 10 * kStripThreads * 4;
  const bool first = lane % kLanes == lane_of_pixel<kLanes>(pixel_of_lane<kLanes>(lane));
  bias_sums[threadIdx.x] = first ? grad_bias : 0.0f;  // the others have the same again
  __syncthreads();
  float* const partials = p.partials + int64_t(blockIdx.x) * (10 * kChannels + 1);
  for (int i = int(threadIdx.x); i <= 10 * kChannels; i += kStripThreads) {
    const bool of_bias = i == 10 * kChannels;
    const float* from = of_bias ? bias_sums : sums + i / kChannels * kStripThreads * 4 + i % kChannels;
    float sum = 0.0f;
    for (int n = 0; n < (of_bias ? kStripThreads : kThreadColumns); ++n) sum += from[n * (of_bias ? 1 : kChannels)];
    partials[i] = sum;
  }
}

template <class Config>
struct Run {
  static StripPlan plan(const Backward& p, int device) {
    return plan_strips(p, Config::kTile, resident_blocks(device, Config::kBlocks, Config::kSharedBytes), 10);
  }
  static int64_t workspace_bytes(const Backward& p, int device) {
    return plan(p, device).blocks * (10 * Config::kChannels + 1) * int64_t(sizeof(float));
  }
  static MrdaCudaStatus run(const Backward& p, void* workspace, int device, void* stream) {
    const StripPlan split = plan(p, device);
    const GradParams<typename Config::T> params(p, split, workspace);
    const MrdaCudaStatus status = launch("rda_conv_backward", strip_backward_kernel<Config>, split.blocks,
                                         kStripThreads, Config::kSharedBytes, stream, params);
    return status.code ? status
                       : reduce<typename Config::T>(p, tiling_of<Config::kLanes>(split), params.partials, stream);
  }
};

// Calls visit with the Run for a call.
template <class Visit>
auto choose(const Backward& p, Visit visit) {
  const auto for_channels = [&](auto element) {
    using T = decltype(element);
    if (p.channels <= 32) return visit(Run<Grad<T, 8>>());
    if (p.channels <= 64) return visit(Run<Grad<T, 16>>());
    return visit(Run<Grad<T, 32>>());
  };
  switch (p.dtype) {
    case DType::kBFloat16: return for_channels(__nv_bfloat16{});
    case DType::kFloat16: return for_channels(__half{});
    default: return for_channels(float{});
  }
}

}  // namespace

int64_t strip_workspace_bytes(const Backward& p, int device) {
  return choose(p, [&](auto run) { return run.workspace_bytes(p, device); });
}

MrdaCudaStatus backward_by_strips(const Backward& p, void* workspace, int device, void* stream) {
  return choose(p, [&](auto run) { return run.run(p, workspace, device, stream); });
}

}  // namespace gpu
}  // namespace mrda
