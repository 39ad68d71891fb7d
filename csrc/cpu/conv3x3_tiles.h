// SPDX-License-Identifier: Apache-2.0
// The 3x3 convolution of a step's rows of bfloat16 on the processor's matrix unit (AMX): nine matrix products, one for
// each tap, of tiles that are read from the rows where they lie.
#pragma once

#include <immintrin.h>

#include "conv3x3_rows.h"
#include "tiles.h"

namespace mrda {
namespace MRDA_ISA {

class Tiles {
 public:
  static constexpr int64_t kChannelUnit = tiles::kChannels;

  static Division divide(const RdaConv3x3Forward& p) {
    constexpr int64_t kWindowsPerStep = 48;  // chosen by measurement
    return {p, kWindowsPerStep, kPixels / kWindowOutputs};
  }

  Tiles(const RdaConv3x3Forward&, const Division&, Bump<float>& scratch) : sums_(scratch.take(kRows * kTile)) {}

  // Block by block of outputs, so that the weights of a block stay in the L1 cache.
  void convolve(const RdaConv3x3Forward& p, const Rows<BFloat16>& rows, const Step& step) const {
    const Configuration configuration;
    _tile_loadconfig(&configuration);
    const BFloat16* weights = static_cast<const BFloat16*>(p.packed_weight);
    const int64_t height = minimum(step.rows * kWindowOutputs, p.height - step.top);
    const int64_t width = minimum(step.columns * kWindowOutputs, p.width - step.left);
    for (int64_t o = 0; o < p.out_channels; o += tiles::kOutputs) {
      const Ending<BFloat16> ending(p, o);
      for (int64_t r = 0; r < height; r += kRows) {
        for (int64_t s = 0; s < width; s += kPixels) {
          if (o == 0) {
            prefetch_pixels<1>(p.output, p.out_channels, {step.sample, step.top + r, step.left + s});
            if (p.skip.data) prefetch_pixels<0>(p.skip, p.out_channels, {step.sample, step.top + r, step.left + s});
          }
          multiply(rows, rows.data + (r * rows.pixels + s) * rows.pitch, weights);
          for (int64_t i = 0; i < minimum(kRows, height - r); ++i)
            finish(ending, sums_ + i * kTile, {step.sample, step.top + r + i, step.left + s},
                   minimum(kPixels, width - s));
        }
      }
      weights += rows.pitch / tiles::kChannels * 9 * tiles::kElements;
    }
    _tile_release();
  }

 private:
  static constexpr int64_t kPixels = 16, kRows = kWindowOutputs;  // of the image, at a time
  static constexpr int64_t kTile = kPixels * tiles::kOutputs;

  float* sums_;  // [row][pixel][output]

  // Eight tile registers, all of 16 rows and 64 bytes: four of sums, one of weights, and pixels.
  struct alignas(64) Configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };

  // The sums of 4 x 16 pixels, the first of whose 3x3 taps is at `corner`.
  void multiply(const Rows<BFloat16>& rows, const BFloat16* corner, const BFloat16* weights) const {
    const int64_t pixel = rows.pitch * int64_t(sizeof(BFloat16)), row = rows.row();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t c = 0; c < rows.pitch; c += tiles::kChannels) {
      for (int i = 0; i < 3; ++i) {
        const BFloat16* pixels = corner + i * row + c;
        for (int j = 0; j < 3; ++j, pixels += rows.pitch, weights += tiles::kElements) {
          _tile_loadd(4, weights, 64);
          _tile_loadd(5, pixels, pixel);
          _tile_dpbf16ps(0, 5, 4);
          _tile_loadd(6, pixels + row, pixel);
          _tile_dpbf16ps(1, 6, 4);
          _tile_loadd(7, pixels + 2 * row, pixel);
          _tile_dpbf16ps(2, 7, 4);
          _tile_loadd(5, pixels + 3 * row, pixel);
          _tile_dpbf16ps(3, 5, 4);
        }
      }
    }
    _tile_stored(0, sums_, 64);
    _tile_stored(1, sums_ + kTile, 64);
    _tile_stored(2, sums_ + 2 * kTile, 64);
    _tile_stored(3, sums_ + 3 * kTile, 64);
  }

  // Asks for the channels of 4 x 16 pixels, which are needed after the next product; the addresses may be outside.
  template <int kWrite>
  static void prefetch_pixels(const View& view, int64_t channels, Position at) {
    if (view.stride[1] != 1) return;
    for (int64_t r = 0; r < kRows; ++r) {
      const uintptr_t row = address<BFloat16>(view, at, r);
      for (int64_t s = 0; s < kPixels; ++s)
        for (int64_t byte = 0; byte < channels * int64_t(sizeof(BFloat16)); byte += kLineBytes)
          __builtin_prefetch(
              reinterpret_cast<const void*>(row + uintptr_t(s * view.stride[3] * int64_t(sizeof(BFloat16)) + byte)),
              kWrite);
    }
  }

  static void finish(const Ending<BFloat16>& ending, const float* sums, Position at, int64_t pixels) {
    static_assert(kLanes<float> == tiles::kOutputs);
    BFloat16* to = ending.at(ending.output, at);
    const BFloat16* skipped = ending.at(ending.skip, at);
    const bool whole = ending.in_one_piece();
    for (int64_t s = 0; s < pixels; ++s, sums += tiles::kOutputs, to += ending.output.stride[3]) {
      if (whole) ending.template write<true>(to, skipped, load(sums));
      else ending.template write<false>(to, skipped, load(sums));
      if (skipped) skipped += ending.skip.stride[3];
    }
  }
};

}  // namespace MRDA_ISA
}  // namespace mrda
