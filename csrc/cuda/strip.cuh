// How an image is cut among blocks, and how its rows come into shared memory.
//
// A block takes a strip: some columns of one sample, all channels or a chunk of them, and walks down its rows. Each
// row is copied to shared memory once, a few rows ahead of its use, as [pixel][channel] whatever the tensor's layout;
// a thread stands for a pixel's column and V neighbouring channels of it. So only the strip's borders are read twice
// (from the cache, as a rule), and one kernel serves every layout: layouts differ in how rows are copied.
#pragma once

#include <cuda_pipeline.h>

#include "launch.cuh"

namespace mrda {
namespace gpu {

struct Plan {
  int lanes_log2;  // threads for one pixel
  int columns;     // pixels that a block's threads stand for
  int tile_width, tile_height;  // of the block's result
  int chunks, strips, row_blocks;
  int channels_log2;  // of a chunk, padded

  __host__ __device__ int channels() const { return 1 << channels_log2; }
  __host__ __device__ int threads() const { return columns << lanes_log2; }
  __host__ __device__ int64_t blocks(int64_t batch) const { return batch * chunks * row_blocks * strips; }
  __host__ __device__ int64_t blocks_per_chunk() const { return int64_t(row_blocks) * strips; }
};

template <class T>
__host__ __device__ constexpr int log2_of_vector() {  // elements in 16 bytes
  return sizeof(T) == 8 ? 1 : sizeof(T) == 4 ? 2 : 3;
}

// Plans for threads of 2^channels_log2 channels each. `halo`: columns on either side that have threads, but no result.
// The plan depends on the shape alone; so do the results, to the last bit.
template <class T>
Plan make_plan(const RdaConvParams& p, int threads, int channels_log2, int max_lanes_log2, int halo) {
  Plan plan;
  plan.lanes_log2 = log2_of_vector<T>() > channels_log2 ? log2_of_vector<T>() - channels_log2 : 0;
  while (plan.lanes_log2 < max_lanes_log2 && int64_t(1) << (plan.lanes_log2 + channels_log2) < p.channels)
    ++plan.lanes_log2;
  plan.channels_log2 = plan.lanes_log2 + channels_log2;
  plan.chunks = int((p.channels + plan.channels() - 1) >> plan.channels_log2);

  const int whole_warps = 32 >> plan.lanes_log2;  // columns that fill a warp
  const int64_t wanted = (p.width + 2 * halo + whole_warps - 1) / whole_warps * whole_warps;
  constexpr int kMaxColumns = 128;  // few channels would make long rows, and those too much shared memory
  plan.columns = threads >> plan.lanes_log2 < kMaxColumns ? threads >> plan.lanes_log2 : kMaxColumns;
  if (wanted < plan.columns) plan.columns = int(wanted);
  plan.tile_width = plan.columns - 2 * halo;
  plan.strips = int((p.width + plan.tile_width - 1) / plan.tile_width);

  constexpr int64_t kBlocks = 2048, kMinRows = 8, kMaxRows = 64;  // enough blocks to fill a device, few enough borders
  int64_t rows = p.batch * plan.chunks * plan.strips * p.height / kBlocks;
  rows = rows < kMinRows ? kMinRows : rows > kMaxRows ? kMaxRows : rows;
  plan.row_blocks = int((p.height + rows - 1) / rows);
  plan.tile_height = int((p.height + plan.row_blocks - 1) / plan.row_blocks);
  plan.row_blocks = int((p.height + plan.tile_height - 1) / plan.tile_height);
  return plan;
}

// Where a block stands.
struct Place {
  int64_t sample;
  int first_channel, channels;  // of its chunk; those that exist
  int top, left, rows;

  __device__ Place(const RdaConvParams& p, const Plan& plan) {
    int64_t index = blockIdx.x;
    left = int(index % plan.strips) * plan.tile_width;
    index /= plan.strips;
    top = int(index % plan.row_blocks) * plan.tile_height;
    index /= plan.row_blocks;
    first_channel = int(index % plan.chunks) << plan.channels_log2;
    sample = index / plan.chunks;
    const int64_t channels_left = p.channels - first_channel, rows_left = p.height - top;
    channels = channels_left < plan.channels() ? int(channels_left) : plan.channels();
    rows = rows_left < plan.tile_height ? int(rows_left) : plan.tile_height;
  }
};

// Rows in shared memory, the latest few of them; `slots` is a power of two. Pixels are `pitch` elements apart, which
// is 16 bytes more than they have channels: neighbouring pixels then lie in other banks.
template <class T>
struct Ring {
  T* data;
  int columns, pitch, slots;

  __host__ __device__ static int64_t bytes(int columns, const Plan& plan, int slots) {
    return int64_t(columns) * slots * pitch_of(plan) * int64_t(sizeof(T));
  }
  __host__ __device__ static int pitch_of(const Plan& plan) { return plan.channels() + 16 / int(sizeof(T)); }
  __device__ Ring(void* memory, int columns, const Plan& plan, int slots)
      : data(static_cast<T*>(memory)), columns(columns), pitch(pitch_of(plan)), slots(slots) {}

  __device__ T* row(int k) const { return data + (k & (slots - 1)) * columns * pitch; }
};

// One sample's image, from a block's first channel on.
template <class T>
struct Image {
  T* data;
  int64_t channel_stride, row_stride, pixel_stride;
  int channels, height, width;
  bool by_pixel;  // lanes go along the width, not along the channels

  __device__ Image(const RdaConvParams& p, const View& view, const Place& place)
      : data(static_cast<T*>(view.data) + place.sample * view.stride[0] + place.first_channel * view.stride[1]),
        channel_stride(view.stride[1]), row_stride(view.stride[2]), pixel_stride(view.stride[3]),
        channels(place.channels), height(int(p.height)), width(int(p.width)),
        by_pixel(view.stride[3] == 1 && view.stride[1] != 1) {}

  __device__ T* at(int row, int column, int channel) const {
    return data + row * row_stride + column * pixel_stride + channel * channel_stride;
  }
};

// Whether runs of V channels of a (B, C, H, W) view can be accessed at once.
template <class T, int V>
bool in_vectors(const RdaConvParams& p, const View& view) {
  const bool aligned = reinterpret_cast<uintptr_t>(view.data) % (sizeof(T) * V) == 0;
  return aligned && p.channels % V == 0 && view.stride[1] == 1 && view.stride[0] % V == 0 && view.stride[2] % V == 0 &&
         view.stride[3] % V == 0;
}

// Calls visit(pixel, channel) for each of `columns` pixels and a chunk's channels, spread over the block's threads so
// that neighbouring lanes meet neighbouring elements of the image.
template <class T, class Visit>
__device__ void for_each_element(const Image<T>& image, const Plan& plan, int columns, Visit visit) {
  const int thread = int(threadIdx.x), threads = int(blockDim.x);
  if (image.by_pixel) {
#pragma unroll 1
    for (int channel = thread >> 5; channel < plan.channels(); channel += threads >> 5)
#pragma unroll 1
      for (int pixel = thread & 31; pixel < columns; pixel += 32) visit(pixel, channel);
  } else {
#pragma unroll 2
    for (int i = thread; i < columns << plan.channels_log2; i += threads)
      visit(i >> plan.channels_log2, i & (plan.channels() - 1));
  }
}

// Copies row `row` of an image, from column `left` on, into row k of a ring; zeros outside the image and for channels
// that do not exist. The copy may still be under way on return: see Prefetch.
template <class T>
__device__ void fetch_row(const Image<const T>& image, bool vectors, const Plan& plan, int row, int left, const Ring<T>& ring,
                          int k) {
  T* to = ring.row(k);
  const bool row_inside = inside(row, image.height);
  if (vectors) {
    constexpr int kVectorLog2 = log2_of_vector<T>();
    const int shift = plan.channels_log2 - kVectorLog2;
    const int channel = (int(threadIdx.x) & ((1 << shift) - 1)) << kVectorLog2;
#pragma unroll 1
    for (int pixel = int(threadIdx.x) >> shift; pixel < ring.columns; pixel += int(blockDim.x) >> shift) {
      T* cell = to + pixel * ring.pitch + channel;
      if (row_inside && inside(left + pixel, image.width) && channel < image.channels)
        __pipeline_memcpy_async(cell, image.at(row, left + pixel, channel), 16);
      else
        *reinterpret_cast<int4*>(cell) = int4{0, 0, 0, 0};
    }
    return;
  }
  for_each_element(image, plan, ring.columns, [&](int pixel, int channel) {
    const bool exists = row_inside && inside(left + pixel, image.width) && channel < image.channels;
    to[pixel * ring.pitch + channel] = exists ? *image.at(row, left + pixel, channel) : T(0.0f);
  });
}

// Row copies in flight. Every thread calls both functions once a row; the barrier after `wait` makes the row visible.
template <int kAhead>
struct Prefetch {
  __device__ static void mark() { __pipeline_commit(); }
  __device__ static void wait() { __pipeline_wait_prior(kAhead - 1); }
};

// Writes one row of results: each thread has V channels, from `channel` on, of the pixel at left + `pixel`. Where runs
// of channels can't be written at once, they go through `buffer` (a row of shared memory), so that lanes can write
// neighbouring elements. All threads of the block call it.
template <int V, class T>
__device__ void write_row(const Image<T>& image, bool vectors, const Plan& plan, int row, int left, int columns, int pixel,
                          int channel, const Accumulator<T> (&values)[V], const Ring<T>& buffer) {
  const bool mine = inside(pixel, columns) && left + pixel < image.width;
  if (vectors) {
    if (mine && channel < image.channels) store<V>(image.at(row, left + pixel, channel), values);
    return;
  }
  __syncthreads();  // the buffer may still be read for an earlier row
  if (mine) store<V>(buffer.row(0) + pixel * buffer.pitch + channel, values);
  __syncthreads();
  for_each_element(image, plan, columns, [&](int at, int c) {
    if (left + at < image.width && c < image.channels) *image.at(row, left + at, c) = buffer.row(0)[at * buffer.pitch + c];
  });
}

}  // namespace gpu
}  // namespace mrda
