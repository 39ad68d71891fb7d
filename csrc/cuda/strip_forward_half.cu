// SPDX-License-Identifier: Apache-2.0
// Forward of the RDA convolution in bfloat16 and float16, on tensor cores by diagonal matrices: see diagonal.cuh. Every
// row in shared memory is loaded once, and added to the three results that it is part of.
//
// The mask's logit is a product with mask_weight in all 8 columns, so that each lane has it for its own pixels.
//
// A value that is not finite, times a zero beside the diagonal, spoils the sums of 7 more channels. The results, times
// zero and added up, tell if that has happened: then these pixels are computed again, one by one.
#include "diagonal.cuh"
#include "strip.cuh"

namespace mrda {
namespace gpu {
namespace {

// A warp takes 16 pixels and kTiles * 16 channels; kParts warps share a pixel.
template <class T_, int kTiles_, int kParts_>
struct Half {
  using T = T_;
  static constexpr int kTiles = kTiles_, kParts = kParts_;
  static constexpr int kWarpChannels = kTiles * 16, kChannels = kWarpChannels * kParts;
  static constexpr int kColumns = kStripWarps / kParts * 16;
  static constexpr int kPitch = kChannels * 2 + 16, kRowBytes = (kColumns + 2) * kPitch;
  using Ring = RowRing<kRowBytes, kRowsAhead + 2>;
  static constexpr int kStagePitch = kWarpChannels * 2 + 16, kStageBytes = 16 * kStagePitch;
  static constexpr int kStages = Ring::kBytes, kLogits = kStages + kStripWarps * kStageBytes;
  static constexpr int kSharedBytes = kLogits + (kParts > 1 ? kStripWarps * 16 * int(sizeof(float)) : 0);
  static constexpr int kBlocks = 2;  // on a multiprocessor
  using Copier = RowCopier<T, kChannels, kColumns + 2, kPitch>;
};

template <class T>
struct HalfParams : StripParams<T> {
  Rows<T> output;
  HalfParams(const Forward& p, const StripPlan& plan) : StripParams<T>(p, plan), output(p.output) {}
};

// The results of one pixel, from global memory: those channels from `channel` to `last` that are a multiple of 4 apart.
template <class T>
__device__ void compute_pixel(const HalfParams<T>& p, int sample, int row, int column, int channel, int last,
                              float mask) {
#pragma unroll 1
  for (; channel < last; channel += 4) {
    float z = 0.0f;
#pragma unroll 1
    for (int i = 0; i < 3; ++i)
#pragma unroll 1
      for (int j = 0; j < 3; ++j)
        if (inside(row + i - 1, p.height) && inside(column + j - 1, p.width))
          z = add_tap(z, p.tap(sample, channel, i * 3 + j),
                      widen(p.input.at(sample, row + i - 1, column + j - 1)[channel]));
    const float x = widen(p.input.at(sample, row, column)[channel]);
    p.output.at(sample, row, column)[channel] = narrow<T>(apply_mask(z, mask, x, p.slopes));
  }
}

template <class Config>
__global__ void __launch_bounds__(kStripThreads, Config::kBlocks)
    strip_forward_half_kernel(const __grid_constant__ HalfParams<typename Config::T> p) {
  MRDA_DYNAMIC_SHARED(memory);
  using T = typename Config::T;
  using Ring = typename Config::Ring;
  constexpr int kTiles = Config::kTiles, kParts = Config::kParts, kPitch = Config::kPitch;
  const StripTile tile(p.plan, Config::kColumns, p.height);
  const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) >> 5, row_of_lane = lane >> 2, pair = lane & 3;
  const int part = warp % kParts, pixel = warp / kParts * 16, first_channel = part * Config::kWarpChannels;

  // Second factors of the products: the diagonal of each tap, and mask_weight.
  uint32_t taps[9][2 * kTiles], mask_weight[2 * kTiles];
#pragma unroll
  for (int g = 0; g < 2 * kTiles; ++g) {
    const int channel = first_channel + g * 8 + pair * 2;
    mask_weight[g] = pack<T>(p.mask_weight_of(channel), p.mask_weight_of(channel + 1));
  }
  load_diagonals(p.weight + int64_t(tile.sample) * p.channels * 9, first_channel, p.channels, taps);
  const float bias = part == 0 ? p.bias() : 0.0f;

  const uint32_t shared = shared_address(memory);
  const int steps = tile.rows + 2;
  RowPrefetcher<Config> rows(p, tile, steps, shared);

  // The left one of the tile's pixels' taps, 8 channels, and beside it the next one; and 16 channels of the third tap.
  const int matrix = lane >> 3;
  const uint32_t pair_at = shared + uint32_t((pixel + (lane & 15) + (matrix >> 1)) * kPitch + first_channel * 2);
  const uint32_t third_at = matrix_row(shared + uint32_t((pixel + 2) * kPitch + first_channel * 2), kPitch);
  const uint32_t centre_at = third_at - kPitch;
  constexpr int kVectors = kTiles * 2, kStored = 32 / kVectors;  // vectors of a pixel, pixels at a time
  const uint32_t stage = shared + uint32_t(Config::kStages + warp * Config::kStageBytes);
  const uint32_t stage_to = stored_place<Config::kStagePitch>(stage);
  // Lanes that load at once have one pixel, or two of 64 bytes that are in different banks if 4 pixels apart.
  const int turn = lane / kVectors, stored = kVectors == 4 ? turn / 2 + turn % 2 * 4 : turn;
  const uint32_t stage_from = stage + uint32_t(stored * Config::kStagePitch + lane % kVectors * 16);
  const int column = tile.left + pixel + stored, channel = first_channel + lane % kVectors * 8;
  const int pixels = channel < p.channels ? p.width - column : 0;  // those to store
  T* to = p.output.at(tile.sample, tile.top, column) + channel;

  float begun[2][2 * kTiles][4] = {};  // the sums of the next two rows, as far as their rows have come
  uint32_t now = 0, before = 0;
#pragma unroll 1
  for (int k = 0; k < steps; ++k) {
    __pipeline_wait_prior(kRowsAhead - 1);
    __syncthreads();  // row k has arrived, and all threads are done with the oldest row
    rows.prefetch(k + kRowsAhead);
    float z[2 * kTiles][4];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      uint32_t third[4];
      load_matrices(third_at + now + t * 32, third);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int g = t * 2 + half;
        const float zero[4] = {};
        uint32_t two[4];
        load_matrices(pair_at + now + g * 16, two);
        add_tap_row(T(), z[g], two, third[half * 2], third[half * 2 + 1], taps, 2, g, begun[0][g]);
        add_tap_row(T(), begun[0][g], two, third[half * 2], third[half * 2 + 1], taps, 1, g, begun[1][g]);
        add_tap_row(T(), begun[1][g], two, third[half * 2], third[half * 2 + 1], taps, 0, g, zero);
      }
    }
    if (k >= 2) {
      uint32_t x[kTiles][4];
      float logit[2][4] = {{bias, bias, bias, bias}, {}};
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        load_matrices(centre_at + before + t * 32, x[t]);
        multiply_add(T(), logit[t & 1], x[t], mask_weight[2 * t], mask_weight[2 * t + 1], logit[t & 1]);
      }
      float mask[2] = {logit[0][0] + logit[1][0], logit[0][2] + logit[1][2]};  // of pixels row_of_lane, and 8 more
      if constexpr (kParts > 1) {
        float* const logits = reinterpret_cast<float*>(memory + Config::kLogits) + pixel + row_of_lane;
        constexpr int kPart = Config::kColumns;
        if (pair == 0) {
          logits[part * kPart] = mask[0];
          logits[part * kPart + 8] = mask[1];
        }
        __syncthreads();
        mask[0] = mask[1] = 0.0f;
#pragma unroll
        for (int i = 0; i < kParts; ++i) {
          mask[0] += logits[i * kPart];
          mask[1] += logits[i * kPart + 8];
        }
      }
      // Two of a pixel pair's four lanes compute the mask of one, and two that of the other.
      const float computed = sigmoid(pair & 2 ? mask[1] : mask[0]);
      mask[0] = __shfl_sync(0xffffffffu, computed, lane & ~3);
      mask[1] = __shfl_sync(0xffffffffu, computed, lane | 3);
      float spoilt[4] = {};
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        uint32_t y[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* sums = z[t * 2 + (i >> 1)] + 2 * (i & 1);
          float centre[2];
          unpack<T>(x[t][i], centre);
          y[i] = pack<T>(apply_mask(sums[0], mask[i & 1], centre[0], p.slopes),
                         apply_mask(sums[1], mask[i & 1], centre[1], p.slopes));
        }
        store_matrices<Config::kStagePitch>(stage_to + t * 32, y);
        multiply_add(T(), spoilt, y, 0, 0, spoilt);
      }
      if (__any_sync(0xffffffffu, !(spoilt[0] + spoilt[2] == 0.0f))) {
        const int last = first_channel + Config::kWarpChannels < p.channels ? first_channel + Config::kWarpChannels
                                                                           : p.channels;
#pragma unroll 1
        for (int i = 0; i < 2; ++i) {
          const int at = tile.left + pixel + row_of_lane + 8 * i;
          if (at < p.width)
            compute_pixel(p, tile.sample, tile.top + k - 2, at, first_channel + pair, last, i ? mask[1] : mask[0]);
        }
      } else {
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 16 / kStored; ++i) {
          uint32_t y[4];
          load_words(stage_from + i * kStored * Config::kStagePitch, y);
          AlignedVector<T, 8> vector;
          memcpy(vector.data, y, sizeof(y));
          if (pixels > i * kStored) store_vector(to + int64_t(i * kStored) * p.output.pixel_stride, vector);
        }
      }
      __syncwarp();  // the stage is free again
      to += p.output.row_stride;
    }
    before = now;
    now = Ring::next(now);
  }
}

template <class Config>
MrdaCudaStatus run(const Forward& p, int device, void* stream) {
  const StripPlan plan = plan_strips(p, Config::kColumns, resident_blocks(device, Config::kBlocks, Config::kSharedBytes), 6);
  return launch("rda_conv_forward", strip_forward_half_kernel<Config>, plan.blocks, kStripThreads,
                Config::kSharedBytes, stream, HalfParams<typename Config::T>(p, plan));
}

template <class T>
MrdaCudaStatus run_for_channels(const Forward& p, int device, void* stream) {
  if (p.channels <= 32) return run<Half<T, 2, 1>>(p, device, stream);
  if (p.channels <= 64) return run<Half<T, 4, 1>>(p, device, stream);
  return run<Half<T, 4, 2>>(p, device, stream);
}

}  // namespace

MrdaCudaStatus forward_half_by_strips(const Forward& p, int device, void* stream) {
  return p.dtype == DType::kBFloat16 ? run_for_channels<__nv_bfloat16>(p, device, stream)
                                     : run_for_channels<__half>(p, device, stream);
}

}  // namespace gpu
}  // namespace mrda
