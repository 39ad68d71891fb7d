// SPDX-License-Identifier: Apache-2.0
// A 5x5 convolution of 64 channels of 16-bit floats to a few, with other weights for the outermost ring of pixels, and a
// pixel shuffle, in one launch. Weights are sums of two numbers of the input's type: two of bfloat16 have 16 of
// float32's 24 bits, two of float16 have 22, but none below 2^-24. Sums are in float32.
//
// A thread block takes a rectangle of pixels with the same weights: a tile inside of the ring, a run of one of its
// sides, or a corner. It copies the input around them into shared memory; then, for each tap in turn, it multiplies the
// pixels, 16 in a row or a column at a time (a "piece"), by that tap's weights on tensor cores. The weights of one tap
// are in use while those of the next one arrive.
#include "dispatch.cuh"
#include "instructions.cuh"

#include <cuda_pipeline.h>

namespace mrda {
namespace gpu {
namespace {

constexpr int kChannels = 64, kSize = 5, kReach = kSize / 2, kTaps = kSize * kSize, kPiece = 16;
constexpr int kPixelBytes = 2 * kChannels, kVectors = kPixelBytes / 16;
constexpr int kPitch = kPixelBytes + 16;  // from pixel to pixel, and from output to output of the weights
constexpr int kSide = 16, kRun = 64;      // pixels of a tile's side, and of a run
constexpr int kWarps = 8, kThreads = 32 * kWarps, kPiecesPerWarp = 2;
static_assert(kSide <= kWarps * kPiecesPerWarp && kRun <= kPiece * kWarps * kPiecesPerWarp, "");
constexpr int kInputPixels = (kSide + 2 * kReach) * (kSide + 2 * kReach);
static_assert((kRun + 2 * kReach) * kSize <= kInputPixels, "");

template <int kScale>
struct Layout {
  static constexpr int kOutputs = 3 * kScale * kScale;
  static constexpr int kGroups = (kOutputs + 15) / 16 * 2;  // of 8 outputs; two at a time are loaded
  static constexpr int kRows = 2 * 8 * kGroups;             // of a tap's weights: both terms
  static constexpr int kTapBytes = kRows * kPitch;
  static constexpr int kBytes = kInputPixels * kPitch + 2 * kTapBytes;
};

template <class T>
struct Arguments {
  const T *input, *weight;
  const float *bias, *shift;
  float* output;
  int height, width;
  int tile_columns, tiles, column_runs, row_runs;  // inside of the ring; along each of its sides
  int blocks;                                      // of a sample
};

// The pixels of a thread block, and the number of their weights.
struct Region {
  int top, left, rows, columns, kind;

  template <class T>
  __device__ __forceinline__ Region(const Arguments<T>& a, int index) {
    const int bottom = a.height - 1, right = a.width - 1;
    top = left = 0;
    rows = columns = 1;
    if (index < a.tiles) {
      kind = 4;
      top = 1 + index / a.tile_columns * kSide;
      left = 1 + index % a.tile_columns * kSide;
      rows = min_of(kSide, bottom - top);
      columns = min_of(kSide, right - left);
      return;
    }
    index -= a.tiles;
    if (index < 2 * a.column_runs) {
      const bool last = index >= a.column_runs;
      kind = last ? 7 : 1;
      top = last ? bottom : 0;
      left = 1 + (last ? index - a.column_runs : index) * kRun;
      columns = min_of(kRun, right - left);
      return;
    }
    index -= 2 * a.column_runs;
    if (index < 2 * a.row_runs) {
      const bool last = index >= a.row_runs;
      kind = last ? 5 : 3;
      left = last ? right : 0;
      top = 1 + (last ? index - a.row_runs : index) * kRun;
      rows = min_of(kRun, bottom - top);
      return;
    }
    index -= 2 * a.row_runs;
    kind = (index & 1) * 2 + (index >> 1) * 6;
    left = index & 1 ? right : 0;
    top = index >> 1 ? bottom : 0;
  }

 private:
  __device__ static int min_of(int a, int b) { return a < b ? a : b; }
};

template <class T, int kScale>
class Upscale {
  using L = Layout<kScale>;

 public:
  __device__ __forceinline__ Upscale(const Arguments<T>& a, unsigned char* memory)
      : a_(a),
        lane_(int(threadIdx.x) & 31),
        warp_(int(threadIdx.x) >> 5),
        sample_(int(blockIdx.x / unsigned(a.blocks))),
        region_(a, int(blockIdx.x % unsigned(a.blocks))),
        input_columns_(region_.columns + 2 * kReach),
        // a piece is a row of a tile, or a part of a run
        is_column_(region_.columns == 1 && region_.rows > 1),
        pieces_(is_column_ ? (region_.rows + kPiece - 1) / kPiece
                : region_.rows > 1 ? region_.rows : (region_.columns + kPiece - 1) / kPiece),
        input_(shared_address(memory)),
        weights_(input_ + kInputPixels * kPitch) {}

  __device__ __forceinline__ void run() {
    load_input();
    load_weights(0);
    float sums[kPiecesPerWarp][L::kGroups][4] = {};
    convolve(sums);
#pragma unroll
    for (int m = 0; m < kPiecesPerWarp; ++m)
      if (piece(m) < pieces_) finish(m, sums[m]);
  }

 private:
  __device__ __forceinline__ int piece(int m) const { return m * kWarps + warp_; }
  // The first pixel of a piece, in the region.
  __device__ __forceinline__ int first_row(int m) const {
    return is_column_ ? piece(m) * kPiece : region_.rows > 1 ? piece(m) : 0;
  }
  __device__ __forceinline__ int first_column(int m) const {
    return is_column_ || region_.rows > 1 ? 0 : piece(m) * kPiece;
  }

  __device__ __forceinline__ void load_input() const {
    const int pixels = (region_.rows + 2 * kReach) * input_columns_;
    const T* const input = a_.input + int64_t(sample_) * a_.height * a_.width * kChannels;
#pragma unroll 1
    for (int i = int(threadIdx.x); i < pixels * kVectors; i += kThreads) {
      const int pixel = i / kVectors, vector = i % kVectors;
      const int row = region_.top - kReach + pixel / input_columns_;
      const int column = region_.left - kReach + pixel % input_columns_;
      copy_async(input_ + pixel * kPitch + vector * 16,
                 input + (int64_t(row) * a_.width + column) * kChannels + vector * 8,
                 unsigned(row) < unsigned(a_.height) && unsigned(column) < unsigned(a_.width));
    }
  }

  // Both terms of the weights of a tap, [output][channel].
  __device__ __forceinline__ void load_weights(int tap) const {
    const T* const weight = a_.weight + (region_.kind * kTaps + tap) * (L::kRows * kChannels);
#pragma unroll 1
    for (int i = int(threadIdx.x); i < L::kRows * kVectors && tap < kTaps; i += kThreads)
      copy_async(weights_ + (tap & 1) * L::kTapBytes + i / kVectors * kPitch + i % kVectors * 16, weight + i * 8, true);
    __pipeline_commit();
  }

  __device__ __forceinline__ void convolve(float (&sums)[kPiecesPerWarp][L::kGroups][4]) const {
    uint32_t pixels[kPiecesPerWarp];  // under the tap
#pragma unroll
    for (int m = 0; m < kPiecesPerWarp; ++m)
      pixels[m] = matrix_row(input_ + (first_row(m) * input_columns_ + first_column(m)) * kPitch,
                             is_column_ ? input_columns_ * kPitch : kPitch);
    const uint32_t weights = factor_row(weights_, kPitch);
    const int mine = pieces_ <= warp_ ? 0 : (pieces_ - warp_ + kWarps - 1) / kWarps;
    int column = 0;  // of the tap
#pragma unroll 1
    for (int tap = 0; tap < kTaps; ++tap) {
      __pipeline_wait_prior(0);
      __syncthreads();  // this tap's weights have arrived, and all threads are done with those of the tap before
      load_weights(tap + 1);
#pragma unroll
      for (int part = 0; part < 4; ++part) {  // 16 channels each
        uint32_t b[L::kGroups][4];
#pragma unroll
        for (int n = 0; n < L::kGroups; ++n)
          load_matrices(weights + (tap & 1) * L::kTapBytes + n * 16 * kPitch + part * 32, b[n]);
#pragma unroll
        for (int m = 0; m < kPiecesPerWarp; ++m) {
          if (m >= mine) continue;
          uint32_t x[4];
          load_matrices(pixels[m] + part * 32, x);
#pragma unroll
          for (int group = 0; group < 2 * L::kGroups; ++group) {
            float(&sum)[4] = sums[m][group % L::kGroups];
            multiply_add(T{}, sum, x, b[group >> 1][group % 2 * 2], b[group >> 1][group % 2 * 2 + 1], sum);
          }
        }
      }
      column = column + 1 == kSize ? 0 : column + 1;
#pragma unroll
      for (int m = 0; m < kPiecesPerWarp; ++m) pixels[m] += column ? kPitch : (input_columns_ - kSize + 1) * kPitch;
    }
  }

  // Adds bias and shift, and writes a piece, shuffled. A lane has outputs 2 * (lane % 4) and the next one of each group,
  // of two pixels.
  __device__ __forceinline__ void finish(int m, float (&sums)[L::kGroups][4]) const {
    const int two = (lane_ & 3) * 2;
#pragma unroll
    for (int group = 0; group < L::kGroups; ++group)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int output = group * 8 + two + i;
        if (output >= L::kOutputs) continue;
        const float bias = a_.bias[region_.kind * L::kOutputs + output] +
                           (a_.shift ? a_.shift[output / (kScale * kScale)] : 0.0f);
        sums[group][i] += bias;
        sums[group][2 + i] += bias;
      }
    if constexpr (kScale == 4) {
      // Lanes side by side have the halves of a run of four in SR: the even one takes the first pixel's, the odd one the
      // second's.
      const int odd = lane_ & 1;
#pragma unroll
      for (int group = 0; group < L::kGroups; ++group) {
        float(&sum)[4] = sums[group];
        const float first = __shfl_xor_sync(0xffffffffu, odd ? sum[0] : sum[2], 1);
        const float second = __shfl_xor_sync(0xffffffffu, odd ? sum[1] : sum[3], 1);
        const AlignedVector<float, 4> run = odd ? AlignedVector<float, 4>{{first, second, sum[2], sum[3]}}
                                                : AlignedVector<float, 4>{{sum[0], sum[1], first, second}};
        int row, column;
        if (pixel(m, (lane_ >> 2) + 8 * odd, row, column))
          store_vector(place(row, column, group * 8 + (two & 4)), run);
      }
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int row, column;
        if (!pixel(m, (lane_ >> 2) + 8 * half, row, column)) continue;
#pragma unroll
        for (int group = 0; group < L::kGroups; ++group)
#pragma unroll
          for (int i = 0; i < 2; ++i)
            if (group * 8 + two + i < L::kOutputs)
              *place(row, column, group * 8 + two + i) = sums[group][half * 2 + i];
      }
    }
  }

  // The pixel of that number in a piece; false if it is not in the region.
  __device__ __forceinline__ bool pixel(int m, int number, int& row, int& column) const {
    row = first_row(m) + (is_column_ ? number : 0);
    column = first_column(m) + (is_column_ ? 0 : number);
    return row < region_.rows && column < region_.columns;
  }

  // Where an output of a pixel of the region is in SR.
  __device__ __forceinline__ float* place(int row, int column, int output) const {
    const int colour = output / (kScale * kScale), down = output / kScale % kScale, right = output % kScale;
    const int64_t line = (int64_t(sample_) * 3 + colour) * a_.height + region_.top + row;
    return a_.output + ((line * kScale + down) * a_.width + region_.left + column) * kScale + right;
  }

  const Arguments<T>& a_;
  const int lane_, warp_, sample_;
  const Region region_;
  const int input_columns_;
  const bool is_column_;
  const int pieces_;
  const uint32_t input_, weights_;
};

template <class T, int kScale>
__global__ void __launch_bounds__(kThreads, 2) conv5x5_kernel(const __grid_constant__ Arguments<T> a) {
  MRDA_DYNAMIC_SHARED(memory);
  Upscale<T, kScale>(a, memory).run();
}

template <class T, int kScale>
MrdaCudaStatus launch_scale(const Arguments<T>& a, int64_t batch, void* stream) {
  return launch("conv5x5_shuffle", conv5x5_kernel<T, kScale>, batch * a.blocks, kThreads, Layout<kScale>::kBytes,
                stream, a);
}

int pieces_of(int64_t length, int piece) { return int((length + piece - 1) / piece); }

template <class T>
MrdaCudaStatus conv5x5(const Conv5x5& p, void* stream) {
  const int tile_columns = pieces_of(p.width - 2, kSide), tiles = tile_columns * pieces_of(p.height - 2, kSide);
  const int column_runs = pieces_of(p.width - 2, kRun), row_runs = pieces_of(p.height - 2, kRun);
  const Arguments<T> a{static_cast<const T*>(p.input.data),
                       static_cast<const T*>(p.weight),
                       static_cast<const float*>(p.bias),
                       static_cast<const float*>(p.shift),
                       static_cast<float*>(p.output.data),
                       int(p.height),
                       int(p.width),
                       tile_columns,
                       tiles,
                       column_runs,
                       row_runs,
                       tiles + 2 * (column_runs + row_runs) + 4};
  return p.scale == 2   ? launch_scale<T, 2>(a, p.batch, stream)
         : p.scale == 3 ? launch_scale<T, 3>(a, p.batch, stream)
                        : launch_scale<T, 4>(a, p.batch, stream);
}

}  // namespace
}  // namespace gpu
}  // namespace mrda

using namespace mrda;

extern "C" bool mrda_cuda_serves_conv5x5(const gpu::Conv5x5* p) {
  return (p->dtype == DType::kBFloat16 || p->dtype == DType::kFloat16) && p->channels_last &&
         mrda_cuda_conv5x5_rows(p->channels, p->scale) > 0;
}

extern "C" int mrda_cuda_conv5x5_rows(int64_t channels, int scale) {
  if (channels != gpu::kChannels) return 0;
  return scale == 2   ? gpu::Layout<2>::kRows
         : scale == 3 ? gpu::Layout<3>::kRows
         : scale == 4 ? gpu::Layout<4>::kRows
                      : 0;
}

extern "C" MrdaCudaStatus mrda_cuda_conv5x5(const gpu::Conv5x5* p, int device, void* stream) {
  return gpu::on_device(*p, device, [&] {
    return p->dtype == DType::kBFloat16 ? gpu::conv5x5<__nv_bfloat16>(*p, stream) : gpu::conv5x5<__half>(*p, stream);
  });
}
