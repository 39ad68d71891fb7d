// SPDX-License-Identifier: Apache-2.0
// Forward of the RDA convolution in float32: a thread takes 4 pixels by 4 channels.
#include "strip.cuh"

namespace mrda {
namespace gpu {
namespace {

// kLanes lanes share a pixel.
template <int kLanes_>
struct Float {
  static constexpr int kLanes = kLanes_, kChannels = kLanes * 4;
  static constexpr int kColumns = kStripThreads / kLanes * 4;
  static constexpr int kPitch = kChannels * 4, kRowBytes = (kColumns + 2) * kPitch;
  using Ring = RowRing<kRowBytes, kRowsAhead + 2>;
  static constexpr int kBlocks = 4;  // on a multiprocessor
  using Copier = RowCopier<float, kChannels, kColumns + 2, kPitch>;
};

struct FloatParams : StripParams<float> {
  Rows<float> output;
  FloatParams(const Forward& p, const StripPlan& plan) : StripParams<float>(p, plan), output(p.output) {}
};

template <class Config>
__global__ void __launch_bounds__(kStripThreads, Config::kBlocks)
    strip_forward_float_kernel(const __grid_constant__ FloatParams p) {
  MRDA_DYNAMIC_SHARED(memory);
  using Ring = typename Config::Ring;
  constexpr int kLanes = Config::kLanes, kPitch = Config::kPitch;
  const StripTile tile(p.plan, Config::kColumns, p.height);
  const int lane = int(threadIdx.x) & 31;
  const int pixel = int(threadIdx.x) / kLanes * 4, channel = int(threadIdx.x) % kLanes * 4;
  float taps[9][4], mask_weight[4];
  load_taps(p, tile.sample, channel, taps, mask_weight);
  const float bias = p.bias();

  const uint32_t shared = shared_address(memory);
  const int steps = tile.rows + 2;
  RowPrefetcher<Config> rows(p, tile, steps, shared);

  const uint32_t mine = shared + uint32_t(pixel * kPitch + channel * 4);
  const int pixels = channel < p.channels ? p.width - tile.left - pixel : 0;  // those to store
  float* to = p.output.at(tile.sample, tile.top, tile.left + pixel) + channel;
  float begun[2][4][4] = {};  // the sums of the next two rows, as far as their rows have come
  uint32_t now = 0, before = 0;
#pragma unroll 1
  for (int k = 0; k < steps; ++k) {
    __pipeline_wait_prior(kRowsAhead - 1);
    __syncthreads();  // row k has arrived, and all threads are done with the oldest row
    rows.prefetch(k + kRowsAhead);
    const float zeros[4][4] = {};
    float z[4][4];
    convolve_row<float, kPitch, false>(mine + now, taps, zeros, begun, z);
    if (k >= 2) {
      float x[4][4];
#pragma unroll
      for (int s = 0; s < 4; ++s) load_shared<float>(mine + before + (1 + s) * kPitch, x[s]);
      const float mask = sigmoid(mask_logit<kLanes>(mask_weight, x, lane) + bias);  // of pixel_of_lane
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        const float m = __shfl_sync(0xffffffffu, mask, lane_of_pixel<kLanes>(s), kLanes);
        float y[4];
#pragma unroll
        for (int v = 0; v < 4; ++v) y[v] = apply_mask(z[s][v], m, x[s][v], p.slopes);
        if (pixels > s) store<4>(to + int64_t(s) * p.output.pixel_stride, y);
      }
      to += p.output.row_stride;
    }
    before = now;
    now = Ring::next(now);
  }
}

template <class Config>
MrdaCudaStatus run(const Forward& p, int device, void* stream) {
  const StripPlan plan = plan_strips(p, Config::kColumns, resident_blocks(device, Config::kBlocks, Config::Ring::kBytes), 6);
  return launch("rda_conv_forward", strip_forward_float_kernel<Config>, plan.blocks, kStripThreads,
                Config::Ring::kBytes, stream, FloatParams(p, plan));
}

}  // namespace

MrdaCudaStatus forward_float_by_strips(const Forward& p, int device, void* stream) {
  if (p.channels <= 32) return run<Float<8>>(p, device, stream);
  if (p.channels <= 64) return run<Float<16>>(p, device, stream);
  return run<Float<32>>(p, device, stream);
}

}  // namespace gpu
}  // namespace mrda
