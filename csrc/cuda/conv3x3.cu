// SPDX-License-Identifier: Apache-2.0
// Half an RDA block on a GPU in one launch, for 64 channels of 16-bit floats in channels_last, K = 3 and one mask.
//
// A thread block takes a tile of the image. It copies the input around the tile into shared memory, makes the RDA
// convolution's result on the tile and one pixel around it, rounded, beside that, and convolves from there. Both
// convolutions are products of matrices on tensor cores, for 16 pixels of a row at a time, a "piece":
//
// - The dynamic one, by diagonal matrices: see diagonal.cuh. So each lane gets its own channels' sums.
// - The static one, for all channels: a tap of each pixel, 16 x 64, times the weights of that tap, 64 x 64. The weights
//   of one tap are in use while those of the next one arrive.
#include "diagonal.cuh"
#include "dispatch.cuh"

#include <cuda_pipeline.h>

namespace mrda {
namespace gpu {
namespace {

constexpr int kChannels = 64, kTaps = 9, kPiece = 16;
constexpr int kPixelBytes = 2 * kChannels, kVectors = kPixelBytes / 16;
constexpr int kPitch = kPixelBytes + 16;  // from pixel to pixel, and from output to output of the weights
constexpr int kTapBytes = kChannels * kPitch;

// The part of the image that a block computes. `pieces` make a row of the RDA convolution's result, of which the static
// convolution has two columns less.
template <int pieces, int rows, int warps>
struct Tile {
  static constexpr int kPieces = pieces, kRows = rows, kWarps = warps, kThreads = 32 * warps;
  static constexpr int kResident = pieces == 1 ? 2 : 1;  // blocks of a multiprocessor, by shared memory
  static constexpr int kSteeredColumns = pieces * kPiece, kSteeredRows = rows + 2;
  static constexpr int kColumns = kSteeredColumns - 2;
  static constexpr int kInputColumns = kSteeredColumns + 2, kInputRows = rows + 4;
  static constexpr int kPiecesPerWarp = (pieces * rows + warps - 1) / warps;

  // Shared memory, in this order. The last two columns' taps reach two pixels beyond the last row.
  static constexpr int kInputBytes = kInputRows * kInputColumns * kPitch;
  static constexpr int kSteeredBytes = (kSteeredRows * kSteeredColumns + 2) * kPitch;
  static constexpr int kBytes = kInputBytes + kSteeredBytes + 2 * kTapBytes;
  static_assert(pieces * rows * kPiece * kPitch <= kInputBytes, "results take the input's place");

  static int64_t blocks(const RdaConv3x3Forward& p) {
    return p.batch * ((p.height + kRows - 1) / kRows) * ((p.width + kColumns - 1) / kColumns);
  }
};

using LargeTile = Tile<3, 10, 8>;   // from sm_90 on
using MediumTile = Tile<2, 12, 8>;  // sm_80
using SmallTile = Tile<1, 12, 6>;   // any GPU, and small images

template <class T>
struct Arguments {
  const T *input, *weight, *mask_weight, *mask_bias, *conv_weight, *conv_bias, *skip;
  T *output, *features;
  int height, width, column_tiles, row_tiles;
  Slopes<float> slopes;
  float final_slope;
};

template <class T, class Tile>
class HalfBlock {
 public:
  __device__ __forceinline__ HalfBlock(const Arguments<T>& a, unsigned char* memory)
      : a_(a),
        lane_(int(threadIdx.x) & 31),
        warp_(int(threadIdx.x) >> 5),
        left_(int(blockIdx.x % unsigned(a.column_tiles)) * Tile::kColumns),
        top_(int(blockIdx.x / unsigned(a.column_tiles) % unsigned(a.row_tiles)) * Tile::kRows),
        sample_(int(blockIdx.x / (unsigned(a.column_tiles) * unsigned(a.row_tiles)))),
        first_pixel_(int64_t(sample_) * a.height * a.width),
        input_(shared_address(memory)),
        steered_(input_ + Tile::kInputBytes),
        weights_(steered_ + Tile::kSteeredBytes) {}

  __device__ __forceinline__ void run() {
    load_input();
    load_weights(0);
    __pipeline_commit();  // a group more after each tap's weights: see convolve
    steer();
    if (a_.features) write_features();
    convolve();
  }

 private:
  __device__ __forceinline__ bool in_image(int row, int column) const {
    return unsigned(row) < unsigned(a_.height) && unsigned(column) < unsigned(a_.width);
  }
  __device__ __forceinline__ int64_t element(int row, int column) const {
    return (first_pixel_ + int64_t(row) * a_.width + column) * kChannels;
  }

  __device__ __forceinline__ void load_input() const {
#pragma unroll 1
    for (int i = int(threadIdx.x); i < Tile::kInputRows * Tile::kInputColumns * kVectors; i += Tile::kThreads) {
      const int pixel = i / kVectors, vector = i % kVectors;
      const int row = top_ - 2 + pixel / Tile::kInputColumns, column = left_ - 2 + pixel % Tile::kInputColumns;
      copy_async(input_ + pixel * kPitch + vector * 16, a_.input + element(row, column) + vector * 8,
                 in_image(row, column));
    }
    __pipeline_commit();
  }

  // The weights of a tap, [output][channel].
  __device__ __forceinline__ void load_weights(int tap) const {
#pragma unroll 1
    for (int i = int(threadIdx.x); i < kChannels * kVectors && tap < kTaps; i += Tile::kThreads) {
      const int output = i / kVectors, vector = i % kVectors;
      copy_async(weights_ + (tap & 1) * kTapBytes + output * kPitch + vector * 16,
                 a_.conv_weight + (output * kTaps + tap) * kChannels + vector * 8, true);
    }
    __pipeline_commit();
  }

  // The skip, piece by piece, to where the results will be.
  __device__ __forceinline__ void load_skip() const {
#pragma unroll 1
    for (int i = int(threadIdx.x); i < Tile::kPieces * Tile::kRows * kPiece * kVectors; i += Tile::kThreads) {
      const int pixel = i / kVectors, vector = i % kVectors, piece = pixel / kPiece;
      const int row = top_ + piece / Tile::kPieces, column = left_ + piece % Tile::kPieces * kPiece + pixel % kPiece;
      copy_async(input_ + pixel * kPitch + vector * 16, a_.skip + element(row, column) + vector * 8,
                 in_image(row, column));
    }
  }

  // The RDA convolution.
  __device__ __forceinline__ void steer() const {
    uint32_t taps[kTaps][8], mask_weight[8];
    const int row_of_lane = lane_ >> 2;
    load_diagonals(a_.weight + int64_t(sample_) * (kChannels * kTaps), 0, kChannels, taps);
#pragma unroll
    for (int group = 0; group < 8; ++group)
      memcpy(&mask_weight[group], a_.mask_weight + group * 8 + (lane_ & 3) * 2, 4);
    const float mask_bias = a_.mask_bias ? widen(*a_.mask_bias) : 0.0f;
    __pipeline_wait_prior(2);
    __syncthreads();  // the input has arrived
#pragma unroll 1
    for (int piece = warp_; piece < Tile::kSteeredRows * Tile::kPieces; piece += Tile::kWarps) {
      const int row = piece / Tile::kPieces, column = piece % Tile::kPieces * kPiece;
      const uint32_t first = input_ + (row * Tile::kInputColumns + column) * kPitch;
      const uint32_t two_taps = first + ((lane_ & 15) + (lane_ >> 4)) * kPitch;
      const uint32_t last_tap = matrix_row(first + 2 * kPitch, kPitch);

      uint32_t x[4][4];
      float logits[2][4] = {{mask_bias, mask_bias, mask_bias, mask_bias}, {}};
#pragma unroll
      for (int part = 0; part < 4; ++part) {  // 16 channels each
        load_matrices(last_tap + (Tile::kInputColumns - 1) * kPitch + part * 32, x[part]);
        float(&logit)[4] = logits[part & 1];
        multiply_add(T{}, logit, x[part], mask_weight[part * 2], mask_weight[part * 2 + 1], logit);
      }
      // The same mask_weight in all 8 columns: each lane has its two pixels' logits.
      const float mask[2] = {sigmoid(logits[0][0] + logits[1][0]), sigmoid(logits[0][2] + logits[1][2])};
      const bool exists[2] = {in_image(top_ - 1 + row, left_ - 1 + column + row_of_lane),
                              in_image(top_ - 1 + row, left_ - 1 + column + row_of_lane + 8)};
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        float z[2][4] = {};
#pragma unroll
        for (int i = 0; i < 3; ++i) {
          uint32_t last[4], two[4];
          load_matrices(last_tap + i * Tile::kInputColumns * kPitch + part * 32, last);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int group = part * 2 + half;
            load_matrices(two_taps + i * Tile::kInputColumns * kPitch + group * 16, two);
            add_tap_row(T{}, z[half], two, last[half * 2], last[half * 2 + 1], taps, i, group, z[half]);
          }
        }
        uint32_t result[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* const sums = z[i >> 1] + 2 * (i & 1);
          float here[2];
          unpack<T>(x[part][i], here);
          const uint32_t pair = pack<T>(apply_mask(sums[0], mask[i & 1], here[0], a_.slopes),
                                        apply_mask(sums[1], mask[i & 1], here[1], a_.slopes));
          result[i] = exists[i & 1] ? pair : 0;  // the static convolution's zero padding
        }
        store_matrices<kPitch>(
            stored_place<kPitch>(steered_ + (row * Tile::kSteeredColumns + column) * kPitch + part * 32), result);
      }
    }
  }

  // The RDA convolution's result on the tile, without the pixels around it.
  __device__ __forceinline__ void write_features() const {
    constexpr int kAll = Tile::kRows * Tile::kColumns * kVectors;
    static_assert(kAll % 32 == 0, "whole warps");
    __syncthreads();  // the result is complete
#pragma unroll 1
    for (int i = int(threadIdx.x); i < kAll; i += Tile::kThreads) {
      const int pixel = i / kVectors, vector = i % kVectors;
      const int row = pixel / Tile::kColumns, column = pixel % Tile::kColumns;
      AlignedVector<uint32_t, 4> words;
      load_words(steered_ + ((row + 1) * Tile::kSteeredColumns + column + 1) * kPitch + vector * 16, words.data);
      if (in_image(top_ + row, left_ + column))
        store_vector(reinterpret_cast<uint32_t*>(a_.features + element(top_ + row, left_ + column) + vector * 8), words);
    }
  }

  __device__ __forceinline__ void convolve() const {
    constexpr int kMine = Tile::kPiecesPerWarp;
    float sums[kMine][8][4];
#pragma unroll
    for (int group = 0; group < 8; ++group) {
      float bias[2] = {};
      if (a_.conv_bias) load<2>(a_.conv_bias + group * 8 + (lane_ & 3) * 2, bias);
#pragma unroll
      for (int m = 0; m < kMine; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[m][group][i] = bias[i & 1];
    }
    uint32_t pixels[kMine];
#pragma unroll
    for (int m = 0; m < kMine; ++m) {
      const int last = Tile::kPieces * Tile::kRows - 1, piece = warp_ * kMine + m < last ? warp_ * kMine + m : last;
      const int row = piece / Tile::kPieces, column = piece % Tile::kPieces * kPiece;
      pixels[m] = matrix_row(steered_ + (row * Tile::kSteeredColumns + column) * kPitch, kPitch);
    }
    const uint32_t weights = factor_row(weights_, kPitch);
#pragma unroll 1
    for (int i = 0; i < 3; ++i)
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        const int tap = i * 3 + j;
        __pipeline_wait_prior(1);  // for this tap's weights, not for the skip, if it was requested just now
        __syncthreads();           // they have arrived, and all threads are done with those of the tap before
        load_weights(tap + 1);
        if (tap == 0 && a_.skip) load_skip();
        __pipeline_commit();
#pragma unroll
        for (int part = 0; part < 4; ++part) {  // 16 channels each
          uint32_t b[4][4];
#pragma unroll
          for (int n = 0; n < 4; ++n)
            load_matrices(weights + (tap & 1) * kTapBytes + n * 16 * kPitch + part * 32, b[n]);
#pragma unroll
          for (int m = 0; m < kMine; ++m) {
            uint32_t x[4];
            load_matrices(pixels[m] + (i * Tile::kSteeredColumns + j) * kPitch + part * 32, x);
#pragma unroll
            for (int group = 0; group < 8; ++group) {
              float(&sum)[4] = sums[m][group];
              multiply_add(T{}, sum, x, b[group >> 1][group % 2 * 2], b[group >> 1][group % 2 * 2 + 1], sum);
            }
          }
        }
      }
#pragma unroll
    for (int m = 0; m < kMine; ++m) finish(warp_ * kMine + m, sums[m]);
  }

  // Adds the skip, activates, and writes a piece. It goes through shared memory, where the skip is, for whole vectors.
  __device__ __forceinline__ void finish(int piece, const float (&sums)[8][4]) const {
    if (piece >= Tile::kPieces * Tile::kRows) return;
    const uint32_t place = input_ + piece * kPiece * kPitch;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      uint32_t skip[4] = {}, result[4];
      if (a_.skip) load_matrices(matrix_row(place + part * 32, kPitch), skip);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* const two = sums[part * 2 + (i >> 1)] + 2 * (i & 1);
        float y[2];
        unpack<T>(skip[i], y);
        result[i] = pack<T>(leaky_relu(two[0] + y[0], a_.final_slope),
                            leaky_relu(two[1] + y[1], a_.final_slope));
      }
      __syncwarp();  // all lanes have their part of the skip, whose place this takes
      store_matrices<kPitch>(stored_place<kPitch>(place + part * 32), result);
    }
    __syncwarp();
    const int row = top_ + piece / Tile::kPieces, left = piece % Tile::kPieces * kPiece;
#pragma unroll
    for (int i = 0; i < kPiece * kVectors / 32; ++i) {
      const int pixel = (lane_ + i * 32) / kVectors, vector = lane_ % kVectors;
      AlignedVector<uint32_t, 4> words;
      load_words(place + pixel * kPitch + vector * 16, words.data);
      if (left + pixel < Tile::kColumns && in_image(row, left_ + left + pixel))
        store_vector(reinterpret_cast<uint32_t*>(a_.output + element(row, left_ + left + pixel) + vector * 8), words);
    }
  }

  const Arguments<T>& a_;
  const int lane_, warp_, left_, top_, sample_;
  const int64_t first_pixel_;  // of the sample
  const uint32_t input_, steered_, weights_;
};

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResident) rda_conv3x3_kernel(const __grid_constant__ Arguments<T> a) {
  MRDA_DYNAMIC_SHARED(memory);
  HalfBlock<T, Tile>(a, memory).run();
}

// Predicted clock cycles of a launch, or many if a tile does not fit. Blocks on the same multiprocessor share all but
// the time in which each waits for memory. The constants are estimates from the instructions of a piece.
template <class Tile>
int64_t predicted_cycles(const RdaConv3x3Forward& p, int device) {
  constexpr int64_t kWait = 3000, kSteer = 140, kConvolve = 500;
  const int resident = blocks_by_shared_memory(device, Tile::kBytes), processors = multiprocessors(device);
  if (resident == 0) return INT64_MAX;
  const int64_t work = kSteer * Tile::kSteeredRows * Tile::kPieces + kConvolve * Tile::kPiecesPerWarp * Tile::kWarps;
  const int64_t blocks = (Tile::blocks(p) + processors - 1) / processors;  // per multiprocessor
  return (blocks + resident - 1) / resident * kWait + blocks * work;
}

// Calls visit(Tile{}, cycles) with the tile that is fastest on a device; on equal terms with the largest.
template <class Visit>
MrdaCudaStatus with_fastest_tile(const RdaConv3x3Forward& p, int device, Visit visit) {
  const int64_t large = predicted_cycles<LargeTile>(p, device), medium = predicted_cycles<MediumTile>(p, device);
  const int64_t small = predicted_cycles<SmallTile>(p, device);
  if (large <= medium && large <= small) return visit(LargeTile{}, large);
  return medium <= small ? visit(MediumTile{}, medium) : visit(SmallTile{}, small);
}

template <class T, class Tile>
MrdaCudaStatus launch_tile(const Conv3x3& p, void* stream) {
  const auto of = [](const void* pointer) { return static_cast<const T*>(pointer); };
  const Arguments<T> a{of(p.input.data),
                       of(p.weight),
                       of(p.mask_weight),
                       of(p.mask_bias),
                       of(p.conv_weight),
                       of(p.conv_bias),
                       of(p.skip.data),
                       static_cast<T*>(p.output.data),
                       static_cast<T*>(p.features.data),
                       int(p.height),
                       int(p.width),
                       int((p.width + Tile::kColumns - 1) / Tile::kColumns),
                       int((p.height + Tile::kRows - 1) / Tile::kRows),
                       slopes_of<float>(p),
                       float(p.final_negative_slope)};
  return launch("rda_conv3x3", rda_conv3x3_kernel<T, Tile>, Tile::blocks(p), Tile::kThreads, Tile::kBytes, stream, a);
}

}  // namespace
}  // namespace gpu
}  // namespace mrda

using namespace mrda;

extern "C" bool mrda_cuda_serves_conv3x3(const gpu::Conv3x3* p) {
  return (p->dtype == DType::kBFloat16 || p->dtype == DType::kFloat16) && p->channels_last && p->kernel_size == 3 &&
         p->mask_channels == 1 && p->channels == gpu::kChannels && p->out_channels == gpu::kChannels;
}

extern "C" MrdaCudaStatus mrda_cuda_plan_conv3x3(const gpu::Conv3x3* p, int device, MrdaCudaTile* tile) {
  return gpu::with_fastest_tile(*p, device, [&](auto chosen, int64_t cycles) {
    using Tile = decltype(chosen);
    *tile = {Tile::kColumns, Tile::kRows, cycles};
    return gpu::make_status(cudaSuccess, "");
  });
}

extern "C" MrdaCudaStatus mrda_cuda_conv3x3(const gpu::Conv3x3* p, int device, void* stream) {
  return gpu::on_device(*p, device, [&] {
    return gpu::with_fastest_tile(*p, device, [&](auto tile, int64_t) {
      return p->dtype == DType::kBFloat16 ? gpu::launch_tile<__nv_bfloat16, decltype(tile)>(*p, stream)
                                          : gpu::launch_tile<__half, decltype(tile)>(*p, stream);
    });
  });
}
