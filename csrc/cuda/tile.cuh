// SPDX-License-Identifier: Apache-2.0
// Tiles: how an image is split among thread blocks, how its rows get into shared memory, and how results get out.
//
// A thread block computes a tile: some columns and rows of one sample, and all channels or one chunk of them. It walks
// down the tile row by row. Each row is copied into shared memory once, a few rows before it is needed, as
// [pixel][channel] whatever the tensor's layout. A thread computes the same columns of every row: one pixel, or two
// neighbouring ones if K = 3, and V neighbouring channels. So only the halo is read twice, usually from the L2 cache,
// and the same kernel serves every memory layout: only the copies differ.
#pragma once

#include <cuda_pipeline.h>

#include "element.cuh"

namespace mrda {
namespace gpu {

struct Tiling {
  int lanes_log2;     // lanes that share a pixel, each with its own channels
  int thread_pixels;  // pixels of a row per thread
  int columns;        // pixels of a row per block: tile_width, and in the backward the halo on both sides
  int tile_width, tile_height;
  int channels_log2;  // channels of a chunk, padded to a power of two
  int channel_chunks, column_tiles, row_tiles;

  __host__ __device__ int channels() const { return 1 << channels_log2; }
  __host__ __device__ int thread_columns() const { return columns / thread_pixels; }
  __host__ __device__ int threads() const { return thread_columns() << lanes_log2; }
  __host__ __device__ int64_t blocks(int64_t batch) const { return batch * channel_chunks * row_tiles * column_tiles; }
  __host__ __device__ int64_t blocks_per_chunk() const { return int64_t(row_tiles) * column_tiles; }
};

// The tiling of a kernel. Config<T, K> has its constants: threads per block, pixels and channels per thread, and the
// most lanes that may share a pixel. `halo` is the number of columns on either side that have threads but no result.
// The tiling depends on the shape alone, and so does every result, to the last bit.
template <class Config>
Tiling make_tiling(const RdaConvParams& p, int halo) {
  constexpr int kThreadLog2 = Config::kVectorLog2;  // channels per thread
  constexpr int kMinLog2 = kVectorLog2<typename Config::Element>;  // channels per pixel: for loads of whole vectors
  Tiling tiling;
  tiling.thread_pixels = Config::kPixels;
  tiling.lanes_log2 = kMinLog2 > kThreadLog2 ? kMinLog2 - kThreadLog2 : 0;
  while (tiling.lanes_log2 < Config::kMaxLanesLog2 && int64_t(1) << (tiling.lanes_log2 + kThreadLog2) < p.channels)
    ++tiling.lanes_log2;
  tiling.channels_log2 = tiling.lanes_log2 + kThreadLog2;
  tiling.channel_chunks = int((p.channels + tiling.channels() - 1) >> tiling.channels_log2);

  const int warp_columns = (32 >> tiling.lanes_log2) * Config::kPixels;
  const int64_t wanted = (p.width + 2 * halo + warp_columns - 1) / warp_columns * warp_columns;
  constexpr int kMaxColumns = 64;  // with few channels, more columns would take too much shared memory
  const int most = (Config::kThreads >> tiling.lanes_log2) * Config::kPixels;
  tiling.columns = most < kMaxColumns ? most : kMaxColumns;
  if (wanted < tiling.columns) tiling.columns = int(wanted);
  tiling.tile_width = tiling.columns - 2 * halo;
  tiling.column_tiles = int((p.width + tiling.tile_width - 1) / tiling.tile_width);

  // Enough blocks to fill a GPU, and tiles tall enough that the halo costs little.
  constexpr int64_t kTargetBlocks = 2048, kMinRows = 8, kMaxRows = 64;
  int64_t rows = p.batch * tiling.channel_chunks * tiling.column_tiles * p.height / kTargetBlocks;
  rows = rows < kMinRows ? kMinRows : rows > kMaxRows ? kMaxRows : rows;
  tiling.row_tiles = int((p.height + rows - 1) / rows);
  tiling.tile_height = int((p.height + tiling.row_tiles - 1) / tiling.row_tiles);
  tiling.row_tiles = int((p.height + tiling.tile_height - 1) / tiling.tile_height);
  return tiling;
}

// The tile of this thread block.
struct BlockTile {
  int sample;
  int first_channel, channels;  // of its chunk; only channels that exist
  int top, left, rows;

  __device__ BlockTile(const RdaConvParams& p, const Tiling& tiling) {
    unsigned index = blockIdx.x;  // 32 bits: a division of 64 is a call
    left = int(index % unsigned(tiling.column_tiles)) * tiling.tile_width;
    index /= unsigned(tiling.column_tiles);
    top = int(index % unsigned(tiling.row_tiles)) * tiling.tile_height;
    index /= unsigned(tiling.row_tiles);
    first_channel = int(index % unsigned(tiling.channel_chunks)) << tiling.channels_log2;
    sample = int(index / unsigned(tiling.channel_chunks));
    const int64_t channels_left = p.channels - first_channel, rows_left = p.height - top;
    channels = channels_left < tiling.channels() ? int(channels_left) : tiling.channels();
    rows = rows_left < tiling.tile_height ? int(rows_left) : tiling.tile_height;
  }
};

// This thread's part of a row: `thread_pixels` pixels from `pixel` on, and `vector` channels from `channel` on. Both
// count from the first one of the block.
struct ThreadTile {
  int column, pixel, channel;

  __device__ ThreadTile(const Tiling& tiling, int vector)
      : column(int(threadIdx.x) >> tiling.lanes_log2),
        pixel(column * tiling.thread_pixels),
        channel((int(threadIdx.x) & ((1 << tiling.lanes_log2) - 1)) * vector) {}
};

// Divides the block's dynamic shared memory among the members of a kernel's SharedStorage, in order. Every part takes a
// multiple of 16 bytes, so that all of them are aligned for vectors. On the host, where `memory` is null, it only adds
// up the size.
class SharedAllocator {
 public:
  __host__ __device__ explicit SharedAllocator(unsigned char* memory) : memory_(memory), bytes_(0) {}

  template <class T>
  __host__ __device__ T* take(int elements) {
    T* const part = reinterpret_cast<T*>(memory_ + bytes_);
    bytes_ += elements * int(sizeof(T));
    return part;
  }
  __host__ __device__ int bytes() const { return bytes_; }

 private:
  unsigned char* memory_;
  int bytes_;
};

// Ring buffer of rows in shared memory: the latest kStages of them. Pixels are `pitch` elements apart, 16 bytes more
// than their channels take, so that neighbouring pixels are in different banks.
template <class T, int kStages>
struct RingBuffer {
  T* data;
  int columns, pitch;

  __host__ __device__ RingBuffer(T* data, int columns, const Tiling& tiling)
      : data(data), columns(columns), pitch(pitch_of(tiling)) {}
  __host__ __device__ RingBuffer(SharedAllocator& allocator, int columns, const Tiling& tiling)
      : RingBuffer(allocator.take<T>(columns * kStages * pitch_of(tiling)), columns, tiling) {}

  __device__ T* row(int k) const { return data + int(unsigned(k) % kStages) * columns * pitch; }

 private:
  __host__ __device__ static int pitch_of(const Tiling& tiling) { return tiling.channels() + 16 / int(sizeof(T)); }
};

// The axis along which a (B, C, H, W) view is accessed in vectors of 16 bytes, if any. A kernel with the template
// argument kChannelVectors has kChannels for all its images; one without finds out at run time which of the other two
// it is, and takes more registers.
enum class VectorAxis { kNone, kChannels, kPixels };

template <class T>
VectorAxis vector_axis(const RdaConvParams& p, const View& view, int channels = kVector<T>) {
  const auto is_aligned = [&](int vector, int axis, int64_t size, int64_t other_strides) {
    return view.stride[axis] == 1 && size % vector == 0 && other_strides % vector == 0 &&
           reinterpret_cast<uintptr_t>(view.data) % (vector * sizeof(T)) == 0;
  };
  // All strides are multiples of a power of two exactly if their bitwise or is one.
  const int64_t outer = view.stride[0] | view.stride[2];
  const bool row_fits_32_bits = view.stride[3] < INT32_MAX / (p.width + 64);
  if (row_fits_32_bits && is_aligned(channels, 1, p.channels, outer | view.stride[3])) return VectorAxis::kChannels;
  if (is_aligned(kVector<T>, 3, p.width, outer | view.stride[1])) return VectorAxis::kPixels;
  return VectorAxis::kNone;
}

// The block's sample of a view, from the block's first channel on.
template <class T>
struct ImageView {
  T* data;
  int64_t channel_stride, row_stride, pixel_stride;
  int channels, height, width;

  __device__ ImageView(const RdaConvParams& p, const View& view, const BlockTile& block)
      : data(static_cast<T*>(view.data) + block.sample * view.stride[0] + block.first_channel * view.stride[1]),
        channel_stride(view.stride[1]), row_stride(view.stride[2]), pixel_stride(view.stride[3]),
        channels(block.channels), height(int(p.height)), width(int(p.width)) {}

  __device__ T* at(int row, int column, int channel) const {
    return data + row * row_stride + column * pixel_stride + channel * channel_stride;
  }
};

// Calls visit(pixel, channel) for all of `columns` pixels and a chunk's channels. They are spread over the block's
// threads so that accesses of a warp to the image are coalesced.
template <class T, class Visit>
__device__ void for_each_element(const ImageView<T>& image, const Tiling& tiling, int columns, Visit visit) {
  const int thread = int(threadIdx.x), threads = int(blockDim.x);
  if (image.pixel_stride < image.channel_stride) {
#pragma unroll 1
    for (int channel = thread >> 5; channel < tiling.channels(); channel += threads >> 5)
#pragma unroll 1
      for (int pixel = thread & 31; pixel < columns; pixel += 32) visit(pixel, channel);
  } else {
#pragma unroll 2
    for (int i = thread; i < columns << tiling.channels_log2; i += threads)
      visit(i >> tiling.channels_log2, i & (tiling.channels() - 1));
  }
}

// Calls visit(column, channel) with the first column of every aligned vector of pixels that overlaps `columns` pixels
// from `left` on. Two lanes take neighbouring vectors, which make up a 32-byte sector of memory; the others take
// different channels, which are in different banks of shared memory.
template <class T, class Visit>
__device__ void for_each_pixel_vector(const Tiling& tiling, int left, int columns, Visit visit) {
  const int first = left & -kVector<T>;
#pragma unroll 1
  for (int channel = int(threadIdx.x) >> 1; channel < tiling.channels(); channel += int(blockDim.x) >> 1)
#pragma unroll 1
    for (int column = first + (int(threadIdx.x) & 1) * kVector<T>; column < left + columns; column += 2 * kVector<T>)
      visit(column, channel);
}

// load_row copies row `row` of an image, from column `left` on, into row k of a ring buffer, with zeros outside the
// image and for channels that do not exist. The whole block calls it. The copy may be asynchronous: it is complete
// after __pipeline_commit, __pipeline_wait_prior and a barrier. One function for each way to access the image:

template <class T, int kStages>
__device__ __forceinline__ void load_row_by_channels(const ImageView<const T>& image, const Tiling& tiling, int row,
                                                     int left, const RingBuffer<T, kStages>& ring, int k) {
  const int shift = tiling.channels_log2 - kVectorLog2<T>, step = int(blockDim.x) >> shift;
  const int channel = (int(threadIdx.x) & ((1 << shift) - 1)) << kVectorLog2<T>;
  const bool exists = inside(row, image.height) && channel < image.channels;
  int pixel = int(threadIdx.x) >> shift;
  const T* from = image.at(row, left, channel) + pixel * int(image.pixel_stride);  // only read if inside the image
  T* to = ring.row(k) + pixel * ring.pitch + channel;
#pragma unroll 1
  for (; pixel < ring.columns; pixel += step) {
    if (exists && inside(left + pixel, image.width)) __pipeline_memcpy_async(to, from, 16);
    else *reinterpret_cast<int4*>(to) = int4{0, 0, 0, 0};
    to += step * ring.pitch;
    from += step * int(image.pixel_stride);
  }
}

template <class T, int kStages>
__device__ __forceinline__ void load_row_by_pixels(const ImageView<const T>& image, const Tiling& tiling, int row,
                                                   int left, const RingBuffer<T, kStages>& ring, int k) {
  T* const to = ring.row(k);
  const bool row_inside = inside(row, image.height);
  for_each_pixel_vector<T>(tiling, left, ring.columns, [&](int column, int channel) {
    AlignedVector<T, kVector<T>> pixels{};
    if (row_inside && inside(column, image.width) && channel < image.channels)
      pixels = load_vector<kVector<T>>(image.at(row, column, channel));
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i)
      if (inside(column + i - left, ring.columns)) to[(column + i - left) * ring.pitch + channel] = pixels.data[i];
  });
}

template <class T, int kStages>
__device__ __forceinline__ void load_row_by_elements(const ImageView<const T>& image, const Tiling& tiling, int row,
                                                     int left, const RingBuffer<T, kStages>& ring, int k) {
  T* const to = ring.row(k);
  const bool row_inside = inside(row, image.height);
  for_each_element(image, tiling, ring.columns, [&](int pixel, int channel) {
    const bool exists = row_inside && inside(left + pixel, image.width) && channel < image.channels;
    to[pixel * ring.pitch + channel] = exists ? *image.at(row, left + pixel, channel) : T(0.0f);
  });
}

template <bool kChannelVectors, class T, int kStages>
__device__ __forceinline__ void load_row(const ImageView<const T>& image, VectorAxis axis, const Tiling& tiling,
                                         int row, int left, const RingBuffer<T, kStages>& ring, int k) {
  if (kChannelVectors) load_row_by_channels(image, tiling, row, left, ring, k);
  else if (axis == VectorAxis::kPixels) load_row_by_pixels(image, tiling, row, left, ring, k);
  else load_row_by_elements(image, tiling, row, left, ring, k);
}

// Copies a row of results, `columns` pixels from `left` on, from shared memory to the image. The whole block calls it.
template <class T>
__device__ void copy_row_out(const ImageView<T>& image, VectorAxis axis, const Tiling& tiling, int row, int left,
                             int columns, const RingBuffer<T, 1>& staging) {
  const T* const from = staging.row(0);
  if (axis == VectorAxis::kPixels) {
    for_each_pixel_vector<T>(tiling, left, columns, [&](int column, int c) {
      if (c >= image.channels) return;
      const bool whole = column >= left && column + kVector<T> <= left + columns && column < image.width;
      AlignedVector<T, kVector<T>> pixels;
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i)
        if (inside(column + i - left, columns) && column + i < image.width) {
          pixels.data[i] = from[(column + i - left) * staging.pitch + c];
          if (!whole) *image.at(row, column + i, c) = pixels.data[i];
        }
      if (whole) store_vector(image.at(row, column, c), pixels);
    });
  } else {
    for_each_element(image, tiling, columns, [&](int pixel, int c) {
      if (left + pixel < image.width && c < image.channels)
        *image.at(row, left + pixel, c) = from[pixel * staging.pitch + c];
    });
  }
}

// Writes a row of results, `columns` pixels from `left` on. Each thread has the values of P pixels from left + `pixel`
// on and of V channels from `channel` on. Unless kChannelVectors, the row goes through `staging` in shared memory, so
// that accesses are coalesced. The whole block calls it.
template <bool kChannelVectors, int P, int V, class T>
__device__ void store_row(const ImageView<T>& image, VectorAxis axis, const Tiling& tiling, int row, int left,
                          int columns, int pixel, int channel, const Accumulator<T> (&values)[P][V],
                          const RingBuffer<T, 1>& staging) {
  const auto exists = [&](int p) { return inside(pixel + p, columns) && left + pixel + p < image.width; };
  if (kChannelVectors) {
    T* const to = image.at(row, left + pixel, channel);
#pragma unroll
    for (int p = 0; p < P; ++p)
      if (exists(p) && channel < image.channels) store<V>(to + p * image.pixel_stride, values[p]);
    return;
  }
  __syncthreads();  // other threads may still be reading the previous row
#pragma unroll
  for (int p = 0; p < P; ++p)
    if (exists(p)) store<V>(staging.row(0) + (pixel + p) * staging.pitch + channel, values[p]);
  __syncthreads();
  copy_row_out(image, axis, tiling, row, left, columns, staging);
}

}  // namespace gpu
}  // namespace mrda
