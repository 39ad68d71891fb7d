// How an image is cut among blocks, and how its rows come into shared memory.
//
// A block takes a strip: some columns of one sample, all channels or a chunk of them, and walks down its rows. Each
// row is copied to shared memory once, a few rows ahead of its use, as [pixel][channel] whatever the tensor's layout;
// a thread stands for a column of pixels and V neighbouring channels of it. So only the strip's borders are read twice
// (from the cache, as a rule), and one kernel serves every layout: layouts differ in how rows are copied. A thread of the
// K = 3 kernels stands for two neighbouring pixels: they share the taps in its registers, and two of four pixels loaded.
#pragma once

#include <cuda_pipeline.h>

#include "launch.cuh"

namespace mrda {
namespace gpu {

struct Plan {
  int lanes_log2;  // threads for the same pixels, each with channels of its own
  int pixels;      // of a thread
  int columns;     // pixels that a block's threads stand for
  int tile_width, tile_height;  // of the block's result
  int chunks, strips, row_blocks;
  int channels_log2;  // of a chunk, padded

  __host__ __device__ int channels() const { return 1 << channels_log2; }
  __host__ __device__ int thread_columns() const { return columns / pixels; }
  __host__ __device__ int threads() const { return thread_columns() << lanes_log2; }
  __host__ __device__ int64_t blocks(int64_t batch) const { return batch * chunks * row_blocks * strips; }
  __host__ __device__ int64_t blocks_per_chunk() const { return int64_t(row_blocks) * strips; }
};

template <class T>
__host__ __device__ constexpr int log2_of_vector() {  // elements in 16 bytes
  return sizeof(T) == 8 ? 1 : sizeof(T) == 4 ? 2 : 3;
}

// Plans for threads of `pixels` pixels and 2^channels_log2 channels each. `halo`: columns on either side that have
// threads, but no result.
// The plan depends on the shape alone; so do the results, to the last bit.
template <class T>
Plan make_plan(const RdaConvParams& p, int threads, int pixels, int channels_log2, int max_lanes_log2, int halo) {
  Plan plan;
  plan.pixels = pixels;
  plan.lanes_log2 = log2_of_vector<T>() > channels_log2 ? log2_of_vector<T>() - channels_log2 : 0;
  while (plan.lanes_log2 < max_lanes_log2 && int64_t(1) << (plan.lanes_log2 + channels_log2) < p.channels)
    ++plan.lanes_log2;
  plan.channels_log2 = plan.lanes_log2 + channels_log2;
  plan.chunks = int((p.channels + plan.channels() - 1) >> plan.channels_log2);

  const int whole_warps = (32 >> plan.lanes_log2) * pixels;  // columns that fill a warp
  const int64_t wanted = (p.width + 2 * halo + whole_warps - 1) / whole_warps * whole_warps;
  constexpr int kMaxColumns = 64;  // few channels would make long rows, and those too much shared memory
  const int most = (threads >> plan.lanes_log2) * pixels;
  plan.columns = most < kMaxColumns ? most : kMaxColumns;
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

// What a thread stands for: its first pixel, counted from the block's first, and its first channel.
struct Seat {
  int column, pixel, channel;

  template <int V>
  __device__ static Seat of(const Plan& plan) {
    const int column = int(threadIdx.x) >> plan.lanes_log2, lane = int(threadIdx.x) & ((1 << plan.lanes_log2) - 1);
    return {column, column * plan.pixels, lane * V};
  }
};

// Rows in shared memory, the latest kSlots of them. Pixels are `pitch` elements apart, which is 16 bytes more than they
// have channels: neighbouring pixels then lie in other banks.
template <class T, int kSlots>
struct Ring {
  T* data;
  int columns, pitch;

  __host__ __device__ static int64_t bytes(int columns, const Plan& plan) {
    return int64_t(columns) * kSlots * pitch_of(plan) * int64_t(sizeof(T));
  }
  __host__ __device__ static int pitch_of(const Plan& plan) { return plan.channels() + 16 / int(sizeof(T)); }
  __device__ Ring(void* memory, int columns, const Plan& plan)
      : data(static_cast<T*>(memory)), columns(columns), pitch(pitch_of(plan)) {}

  __device__ T* row(int k) const { return data + int(unsigned(k) % kSlots) * columns * pitch; }
};

// How a (B, C, H, W) view can be accessed: in runs of 16 bytes along the channels or along a row, or by the element.
// Kernels have a parameter kVectors: all their rows are accessed in runs of channels. Those without know the other two
// ways, which take more registers.
enum class Access { kElements, kChannels, kPixels };

template <class T>
Access access(const RdaConvParams& p, const View& view, int channels = 1 << log2_of_vector<T>()) {
  constexpr int kVector = 1 << log2_of_vector<T>();
  const auto aligned = [&](int run, int along, int64_t size, int64_t others) {
    return view.stride[along] == 1 && size % run == 0 && others % run == 0 &&
           reinterpret_cast<uintptr_t>(view.data) % (run * sizeof(T)) == 0;
  };
  // strides of 0 are multiples of everything; | keeps the lowest bits, which tell multiples of a power of two
  const int64_t outer = view.stride[0] | view.stride[2];
  const bool near = view.stride[3] < INT32_MAX / (p.width + 64);  // 32 bits do for places within a row
  if (near && aligned(channels, 1, p.channels, outer | view.stride[3])) return Access::kChannels;
  if (aligned(kVector, 3, p.width, outer | view.stride[1])) return Access::kPixels;
  return Access::kElements;
}

// One sample's image, from a block's first channel on.
template <class T>
struct Image {
  T* data;
  int64_t channel_stride, row_stride, pixel_stride;
  int channels, height, width;

  __device__ Image(const RdaConvParams& p, const View& view, const Place& place)
      : data(static_cast<T*>(view.data) + place.sample * view.stride[0] + place.first_channel * view.stride[1]),
        channel_stride(view.stride[1]), row_stride(view.stride[2]), pixel_stride(view.stride[3]),
        channels(place.channels), height(int(p.height)), width(int(p.width)) {}

  __device__ T* at(int row, int column, int channel) const {
    return data + row * row_stride + column * pixel_stride + channel * channel_stride;
  }
};

// Calls visit(pixel, channel) for each of `columns` pixels and a chunk's channels, spread over the block's threads so
// that neighbouring lanes meet neighbouring elements of the image.
template <class T, class Visit>
__device__ void for_each_element(const Image<T>& image, const Plan& plan, int columns, Visit visit) {
  const int thread = int(threadIdx.x), threads = int(blockDim.x);
  if (image.pixel_stride < image.channel_stride) {
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

// Calls visit(column, channel) for the first column of each aligned run of 16 bytes that has a part in `columns` pixels
// from `left` on. Two lanes are neighbours in a row, for whole sectors of memory; the others in channels, for shared
// memory's banks.
template <class T, class Visit>
__device__ void for_each_run(const Plan& plan, int left, int columns, Visit visit) {
  constexpr int kRun = 1 << log2_of_vector<T>();
  const int first = left & -kRun;
#pragma unroll 1
  for (int channel = int(threadIdx.x) >> 1; channel < plan.channels(); channel += int(blockDim.x) >> 1)
#pragma unroll 1
    for (int column = first + (int(threadIdx.x) & 1) * kRun; column < left + columns; column += 2 * kRun)
      visit(column, channel);
}

// Copies row `row` of an image, from column `left` on, into row k of a ring, with zeros outside the image and for
// channels that do not exist. The copy may still be under way on return: see Prefetch.
template <bool kVectors, class T, int kSlots>
__device__ __forceinline__ void copy_row(const Image<const T>& image, Access access, const Plan& plan, int row, int left,
                                         const Ring<T, kSlots>& ring, int k) {
  constexpr int kRunLog2 = log2_of_vector<T>(), kRun = 1 << kRunLog2;
  T* to = ring.row(k);
  const bool row_inside = inside(row, image.height);
  if (kVectors) {
    const int shift = plan.channels_log2 - kRunLog2, step = int(blockDim.x) >> shift;
    const int channel = (int(threadIdx.x) & ((1 << shift) - 1)) << kRunLog2;
    const bool exists = row_inside && channel < image.channels;
    int pixel = int(threadIdx.x) >> shift;
    const T* from = image.at(row, left, channel) + pixel * int(image.pixel_stride);  // read only where it exists
    to += pixel * ring.pitch + channel;
#pragma unroll 1
    for (; pixel < ring.columns; pixel += step) {
      if (exists && inside(left + pixel, image.width)) __pipeline_memcpy_async(to, from, 16);
      else *reinterpret_cast<int4*>(to) = int4{0, 0, 0, 0};
      to += step * ring.pitch;
      from += step * int(image.pixel_stride);
    }
  } else if (access == Access::kPixels) {
    for_each_run<T>(plan, left, ring.columns, [&](int column, int channel) {
      Pack<T, kRun> run{};
      if (row_inside && inside(column, image.width) && channel < image.channels)
        run = load_pack<kRun>(image.at(row, column, channel));
#pragma unroll
      for (int i = 0; i < kRun; ++i)
        if (inside(column + i - left, ring.columns)) to[(column + i - left) * ring.pitch + channel] = run.at[i];
    });
  } else {
    for_each_element(image, plan, ring.columns, [&](int pixel, int channel) {
      const bool exists = row_inside && inside(left + pixel, image.width) && channel < image.channels;
      to[pixel * ring.pitch + channel] = exists ? *image.at(row, left + pixel, channel) : T(0.0f);
    });
  }
}

// Row copies in flight. Every thread calls both functions once a row; the barrier after `wait` makes the row visible.
template <int kAhead>
struct Prefetch {
  __device__ static void mark() { __pipeline_commit(); }
  __device__ static void wait() { __pipeline_wait_prior(kAhead - 1); }
};

// Writes one row of results, `columns` pixels from `left` on: each thread has V channels, from `channel` on, of the P
// pixels from left + `pixel` on. Unless kVectors, the row goes through `buffer`, a row of shared memory, so that lanes
// can write neighbours. All threads of the block call it.
template <bool kVectors, int P, int V, class T>
__device__ void write_row(const Image<T>& image, Access access, const Plan& plan, int row, int left, int columns, int pixel,
                          int channel, const Accumulator<T> (&values)[P][V], const Ring<T, 1>& buffer) {
  const auto mine = [&](int p) { return inside(pixel + p, columns) && left + pixel + p < image.width; };
  if (kVectors) {
    T* const to = image.at(row, left + pixel, channel);
#pragma unroll
    for (int p = 0; p < P; ++p)
      if (mine(p) && channel < image.channels) store<V>(to + p * image.pixel_stride, values[p]);
    return;
  }
  const T* const from = buffer.row(0);
  __syncthreads();  // the buffer may still be read for an earlier row
#pragma unroll
  for (int p = 0; p < P; ++p)
    if (mine(p)) store<V>(buffer.row(0) + (pixel + p) * buffer.pitch + channel, values[p]);
  __syncthreads();
  if (access == Access::kPixels) {
    constexpr int kRun = 1 << log2_of_vector<T>();
    for_each_run<T>(plan, left, columns, [&](int column, int c) {
      if (c >= image.channels) return;
      const bool whole = column >= left && column + kRun <= left + columns && column < image.width;
      Pack<T, kRun> run;
#pragma unroll
      for (int i = 0; i < kRun; ++i)
        if (inside(column + i - left, columns) && column + i < image.width) {
          run.at[i] = from[(column + i - left) * buffer.pitch + c];
          if (!whole) *image.at(row, column + i, c) = run.at[i];
        }
      if (whole) store_pack(image.at(row, column, c), run);
    });
  } else {
    for_each_element(image, plan, columns, [&](int at, int c) {
      if (left + at < image.width && c < image.channels) *image.at(row, left + at, c) = from[at * buffer.pitch + c];
    });
  }
}

}  // namespace gpu
}  // namespace mrda
