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
  constexpr int kMaxColumns = 64;  // few channels would make long rows, and those too much shared memory
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

// Copies rows of an image, from column `left` on, into a ring, with zeros outside the image and for channels that do
// not exist. A copy may still be under way on return: see Prefetch. In runs of channels, a thread's share is worked out
// beforehand: the kernels copy a row for each row that they compute, and have few instructions to spare.
template <class T, bool kVectors>
class RowCopy {
  static constexpr int kRunLog2 = log2_of_vector<T>(), kRun = 1 << kRunLog2;

 public:
  __device__ RowCopy(const Image<const T>& image, Access access, const Plan& plan, int left, const Ring<T>& ring)
      : image_(image), access_(access), left_(left) {
    if (!kVectors) return;
    const int shift = plan.channels_log2 - kRunLog2, pixels = int(blockDim.x) >> shift;
    const int channel = (int(threadIdx.x) & ((1 << shift) - 1)) << kRunLog2, first = int(threadIdx.x) >> shift;
    cell_ = first * ring.pitch + channel;
    offset_ = first * int(image.pixel_stride) + channel;
    for (int pixel = first; pixel < ring.columns; pixel += pixels, ++count_)
      if (inside(left + pixel, image.width) && channel < image.channels) exists_ |= 1u << count_;
  }

  // Row `row` of the image into row k of the ring.
  __device__ void operator()(const Plan& plan, int row, const Ring<T>& ring, int k) const {
    T* to = ring.row(k);
    const bool row_inside = inside(row, image_.height);
    if (kVectors) {
      const int pixels = int(blockDim.x) >> (plan.channels_log2 - kRunLog2), step = pixels * int(image_.pixel_stride);
      const T* from = image_.at(row, left_, 0) + offset_;  // read only where it exists
      to += cell_;
#pragma unroll 1
      for (int i = 0; i < count_; ++i, to += pixels * ring.pitch, from += step) {
        if (row_inside && (exists_ >> i & 1)) __pipeline_memcpy_async(to, from, 16);
        else *reinterpret_cast<int4*>(to) = int4{0, 0, 0, 0};
      }
    } else if (access_ == Access::kPixels) {
      for_each_run<T>(plan, left_, ring.columns, [&](int column, int channel) {
        Pack<T, kRun> run{};
        if (row_inside && inside(column, image_.width) && channel < image_.channels)
          run = load_pack<kRun>(image_.at(row, column, channel));
#pragma unroll
        for (int i = 0; i < kRun; ++i)
          if (inside(column + i - left_, ring.columns)) to[(column + i - left_) * ring.pitch + channel] = run.at[i];
      });
    } else {
      for_each_element(image_, plan, ring.columns, [&](int pixel, int channel) {
        const bool exists = row_inside && inside(left_ + pixel, image_.width) && channel < image_.channels;
        to[pixel * ring.pitch + channel] = exists ? *image_.at(row, left_ + pixel, channel) : T(0.0f);
      });
    }
  }

 private:
  Image<const T> image_;
  Access access_;
  int left_;
  int cell_ = 0, offset_ = 0, count_ = 0;  // of the thread's first run, in the ring's row and in the image's
  unsigned exists_ = 0;                    // a bit for each of its runs
};

// Row copies in flight. Every thread calls both functions once a row; the barrier after `wait` makes the row visible.
template <int kAhead>
struct Prefetch {
  __device__ static void mark() { __pipeline_commit(); }
  __device__ static void wait() { __pipeline_wait_prior(kAhead - 1); }
};

// Writes one row of results, `columns` pixels from `left` on: each thread has V channels, from `channel` on, of the one
// at left + `pixel`. Unless kVectors, the row goes through `buffer`, a row of shared memory, so
// that lanes can write neighbours. All threads of the block call it.
template <bool kVectors, int V, class T>
__device__ void write_row(const Image<T>& image, Access access, const Plan& plan, int row, int left, int columns, int pixel,
                          int channel, const Accumulator<T> (&values)[V], const Ring<T>& buffer) {
  const bool mine = inside(pixel, columns) && left + pixel < image.width;
  if (kVectors) {
    if (mine && channel < image.channels) store<V>(image.at(row, left + pixel, channel), values);
    return;
  }
  const T* const from = buffer.row(0);
  __syncthreads();  // the buffer may still be read for an earlier row
  if (mine) store<V>(buffer.row(0) + pixel * buffer.pitch + channel, values);
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
