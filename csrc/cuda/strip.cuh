// SPDX-License-Identifier: Apache-2.0
// Strips: the usual calls, those with K = 3, one mask and channels in vectors of 16 bytes, have kernels of their own.
//
// A thread block takes a strip of an image, some columns and all channels, and walks down some of its rows. Rows are
// copied into a ring in shared memory, as [pixel][channel], kRowsAhead rows before they are needed. Sizes are known to
// the compiler, so that a row costs few instructions beside the arithmetic: it is instructions, not bytes, that bound
// kernels with sizes in registers. Channels beyond the image's are zero, and are not written.
#pragma once

#include <cuda_pipeline.h>

#include "dispatch.cuh"
#include "instructions.cuh"

namespace mrda {
namespace gpu {

constexpr int kStripWarps = 4, kStripThreads = kStripWarps * 32, kRowsAhead = 2;

// How images are split: into strips, and these into tiles of rows. A block's index counts strips first, then tiles,
// then samples.
struct StripPlan {
  int strips, tiles, tile_rows;
  int64_t blocks;
};

// Splits images into strips of `columns`, and as many tiles that `resident` blocks at a time have done them earliest. A
// tile costs as much as `rows_more` rows beside its own.
StripPlan plan_strips(const RdaConvParams& p, int columns, int64_t resident, int rows_more);
// Blocks of a kernel that a GPU runs at a time: `most` on a multiprocessor, fewer if its shared memory holds no more.
int64_t resident_blocks(int device, int most, int shared_bytes);

// A (B, C, H, W) view whose channels are neighbours.
template <class T>
struct Rows {
  T* data;
  int64_t sample_stride, row_stride;
  int pixel_stride;

  explicit Rows(const View& view)
      : data(static_cast<T*>(view.data)),
        sample_stride(view.stride[0]),
        row_stride(view.stride[2]),
        pixel_stride(int(view.stride[3])) {}

  __device__ T* at(int sample, int row, int column) const {
    return data + sample * sample_stride + row * row_stride + int64_t(column) * pixel_stride;
  }
};

// What all kernels take.
template <class T>
struct StripParams {
  Rows<const T> input;
  const T *weight, *mask_weight, *mask_bias;
  Slopes<float> slopes;
  StripPlan plan;
  int channels, height, width;

  StripParams(const RdaConvParams& p, const StripPlan& plan)
      : input(p.input),
        weight(static_cast<const T*>(p.weight)),
        mask_weight(static_cast<const T*>(p.mask_weight)),
        mask_bias(static_cast<const T*>(p.mask_bias)),
        slopes(slopes_of<float>(p)),
        plan(plan),
        channels(int(p.channels)),
        height(int(p.height)),
        width(int(p.width)) {}

  // A tap of a channel's kernel, row by row.
  __device__ float tap(int sample, int channel, int number) const {
    return channel < channels ? widen(weight[(int64_t(sample) * channels + channel) * 9 + number]) : 0.0f;
  }
  __device__ float mask_weight_of(int channel) const {
    return channel < channels ? widen(mask_weight[channel]) : 0.0f;
  }
  __device__ float bias() const { return mask_bias ? widen(*mask_bias) : 0.0f; }
};

// The tile of this thread block.
struct StripTile {
  int sample, left, top, rows;

  __device__ StripTile(const StripPlan& plan, int columns, int height) {
    unsigned index = blockIdx.x;  // 32 bits: a division of 64 is a call
    left = int(index % unsigned(plan.strips)) * columns;
    index /= unsigned(plan.strips);
    top = int(index % unsigned(plan.tiles)) * plan.tile_rows;
    sample = int(index / unsigned(plan.tiles));
    rows = height - top < plan.tile_rows ? height - top : plan.tile_rows;
  }
};

// A ring of rows in shared memory.
template <int kRowBytes, int kSlots>
struct RowRing {
  static constexpr int kBytes = kRowBytes * kSlots;
  static constexpr uint32_t kLast = uint32_t(kBytes - kRowBytes);  // row
  static __device__ __forceinline__ uint32_t next(uint32_t row) {
    return row == kLast ? 0 : row + uint32_t(kRowBytes);
  }
};

// The pixel of a thread's vector, where a block takes pixels of kVectors vectors. Lanes that access shared memory at once
// have one pixel, or two of 64 bytes that are in different banks if they are 4 apart.
template <int kVectors>
__device__ __forceinline__ int pixel_of_vector() {
  const int pixel = int(threadIdx.x) / kVectors;
  return kVectors == 4 ? pixel / 8 * 8 + pixel % 8 / 2 + pixel % 2 * 4 : pixel;
}

// Copies an image's rows into a ring, from one row on: kColumns pixels from column `left` on, kPitch bytes apart, with
// zeros outside the image. The whole block calls it.
template <class T, int kChannels, int kColumns, int kPitch>
class RowCopier {
  static constexpr int kVectors = kChannels / kVector<T>;  // of a pixel
  static constexpr int kStep = kStripThreads / kVectors;   // pixels at a time
  static constexpr int kRounds = (kColumns + kStep - 1) / kStep;
  static_assert(kStripThreads % kVectors == 0 && kRounds < 32, "");

 public:
  __device__ __forceinline__ RowCopier(const Rows<const T>& image, const StripParams<T>& p, int sample, int row,
                                       int left, uint32_t ring)
      : row_stride_(image.row_stride), pixel_stride_(image.pixel_stride), row_(row), height_(p.height) {
    pixel_ = pixel_of_vector<kVectors>();
    const int channel = int(threadIdx.x) % kVectors * kVector<T>;
    from_ = image.at(sample, row, left + pixel_) + channel;  // only read if inside the image
    to_ = ring + uint32_t(pixel_ * kPitch + channel * int(sizeof(T)));
#pragma unroll
    for (int i = 0; i < kRounds; ++i)
      exists_ |= unsigned(channel < p.channels && inside(left + pixel_ + i * kStep, p.width)) << i;
  }

  // Copies the next row to where `row` is in the ring.
  __device__ __forceinline__ void copy(uint32_t row) {
    const unsigned exists = unsigned(row_) < unsigned(height_) ? exists_ : 0;
#pragma unroll
    for (int i = 0; i < kRounds; ++i)
      if ((i + 1) * kStep <= kColumns || pixel_ + i * kStep < kColumns)
        copy_async(to_ + row + uint32_t(i * kStep * kPitch), from_ + int64_t(i * kStep) * pixel_stride_,
                   exists & 1u << i);
    from_ += row_stride_;
    ++row_;
  }

 private:
  const T* from_;
  const int64_t row_stride_;
  const int pixel_stride_;
  uint32_t to_;
  unsigned exists_ = 0;  // a bit for each round
  int pixel_, row_;
  const int height_;
};

// Copies the rows that a tile of a forward kernel needs, kRowsAhead of them at first. The whole block calls it.
template <class Config>
class RowPrefetcher {
  using Ring = typename Config::Ring;

 public:
  template <class T>
  __device__ __forceinline__ RowPrefetcher(const StripParams<T>& p, const StripTile& tile, int rows, uint32_t ring)
      : copier_(p.input, p, tile.sample, tile.top - 1, tile.left - 1, ring), rows_(rows) {
#pragma unroll 1
    for (int k = 0; k < kRowsAhead; ++k) prefetch(k);
  }
  __device__ __forceinline__ void prefetch(int k) {
    if (k < rows_) copier_.copy(at_);
    at_ = Ring::next(at_);
    __pipeline_commit();  // also without a row: wait_prior counts groups
  }

 private:
  typename Config::Copier copier_;
  const int rows_;
  uint32_t at_ = 0;
};

// 4 neighbouring elements in shared memory, 8 or 16 bytes.
template <class T>
__device__ __forceinline__ void load_shared(uint32_t at, float (&x)[4]) {
  uint32_t words[sizeof(T)];
  load_words(at, words);
  AlignedVector<T, 4> vector;
  memcpy(vector.data, words, sizeof(vector));
  widen(vector, x);
}
__device__ __forceinline__ void store_shared(uint32_t at, const float (&x)[4]) {
  uint32_t words[4];
  memcpy(words, x, sizeof(words));
  store_words(at, words);
}

// A thread's 4 pixels have sums over the group of kLanes neighbouring lanes that share them: each lane has that of one
// pixel. The first lane with the sum of a pixel, in its group:
template <int kLanes>
__device__ __forceinline__ constexpr int lane_of_pixel(int pixel) {
  return (pixel & 1) * 4 + (pixel >> 1) * (kLanes == 8 ? 2 : 8);
}
template <int kLanes>
__device__ __forceinline__ constexpr int pixel_of_lane(int lane) {
  return (lane >> 2 & 1) + (lane >> (kLanes == 8 ? 1 : 3) & 1) * 2;
}

// Sums each of 4 values over a group of lanes: each gets that of its pixel_of_lane. All lanes of the warp have to call
// it.
template <int kLanes>
__device__ __forceinline__ float sum_of_4(const float (&x)[4], int lane) {
  constexpr int kOdd = lane_of_pixel<kLanes>(1), kUpper = lane_of_pixel<kLanes>(2);
  const bool odd = lane & kOdd, upper = lane & kUpper;
  float low = odd ? x[1] : x[0], high = odd ? x[3] : x[2];
  low += __shfl_xor_sync(0xffffffffu, odd ? x[0] : x[1], kOdd);
  high += __shfl_xor_sync(0xffffffffu, odd ? x[2] : x[3], kOdd);
  float sum = upper ? high : low;
  sum += __shfl_xor_sync(0xffffffffu, upper ? low : high, kUpper);
#pragma unroll
  for (int step = 1; step < kLanes; step *= 2)
    if (step != kOdd && step != kUpper) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  return sum;
}

// The mask's logit of pixel_of_lane, without the bias, from a thread's 4 pixels by 4 channels.
template <int kLanes>
__device__ __forceinline__ float mask_logit(const float (&mask_weight)[4], const float (&x)[4][4], int lane) {
  float logit[4];
#pragma unroll
  for (int s = 0; s < 4; ++s) {
    logit[s] = mask_weight[0] * x[s][0];
#pragma unroll
    for (int v = 1; v < 4; ++v) logit[s] = add_tap(logit[s], mask_weight[v], x[s][v]);
  }
  return sum_of_4<kLanes>(logit, lane);
}

// The taps of a thread's 4 channels, and their mask_weight.
template <class T>
__device__ __forceinline__ void load_taps(const StripParams<T>& p, int sample, int channel, float (&taps)[9][4],
                                          float (&mask_weight)[4]) {
#pragma unroll
  for (int v = 0; v < 4; ++v) {
    mask_weight[v] = p.mask_weight_of(channel + v);
#pragma unroll
    for (int n = 0; n < 9; ++n) taps[n][v] = p.tap(sample, channel + v, n);
  }
}

// A row's part in the correlation of a thread's 4 pixels by 4 channels with its taps; with kFlip, with the taps rotated
// by 180 degrees, which is the gradient with respect to the input. Gives the complete sums of the row above, and begins
// those of the row below with `start`. `at` is the first pixel's leftmost tap.
template <class T, int kPitch, bool kFlip>
__device__ __forceinline__ void convolve_row(uint32_t at, const float (&taps)[9][4], const float (&start)[4][4],
                                             float (&begun)[2][4][4], float (&sum)[4][4]) {
#pragma unroll
  for (int s = 0; s < 4; ++s)
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      sum[s][v] = begun[0][s][v];
      begun[0][s][v] = begun[1][s][v];
      begun[1][s][v] = start[s][v];
    }
#pragma unroll
  for (int column = 0; column < 6; ++column) {
    float x[4];
    load_shared<T>(at + column * kPitch, x);
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      const int j = column - s;  // the tap's column
      if (j < 0 || j > 2) continue;
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        sum[s][v] = add_tap(sum[s][v], taps[kFlip ? 2 - j : 6 + j][v], x[v]);
        begun[0][s][v] = add_tap(begun[0][s][v], taps[kFlip ? 5 - j : 3 + j][v], x[v]);
        begun[1][s][v] = add_tap(begun[1][s][v], taps[kFlip ? 8 - j : j][v], x[v]);
      }
    }
  }
}

// True if the kernels for strips serve a call.
bool strips_serve(const Forward& p);
bool strips_serve(const Backward& p);
// True if they would, whatever the memory layout.
bool strips_fit(const RdaConvParams& p);
MrdaCudaStatus forward_half_by_strips(const Forward& p, int device, void* stream);
MrdaCudaStatus forward_float_by_strips(const Forward& p, int device, void* stream);
// Bytes for the partial sums, whether the kernels serve the call or not.
int64_t strip_workspace_bytes(const Backward& p, int device);
MrdaCudaStatus backward_by_strips(const Backward& p, void* workspace, int device, void* stream);

}  // namespace gpu
}  // namespace mrda
