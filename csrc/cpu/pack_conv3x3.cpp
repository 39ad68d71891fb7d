// SPDX-License-Identifier: Apache-2.0
// Weights of a 3x3 convolution, transformed once for any number of calls, in one layout for all instruction sets.
#define MRDA_ISA packing
#include "launch.h"
#include "simd.h"
#include "tiles.h"
#include "winograd.h"

namespace mrda {
namespace cpu {
namespace {

using winograd::kBlock;
using winograd::kProducts;
using winograd::kWindow;

template <class T, class A = packing::Accumulator<T>>
void pack(int64_t out_channels, int64_t channels, const T* weight, A* packed) {
  using Block = double[kBlock];  // a number of each output, which compilers turn into vectors
  const int64_t stride = channels * kBlock;  // from product to product
  for (int64_t first = 0; first < out_channels; first += kBlock)
    for (int64_t c = 0; c < channels; ++c) {
      Block kernel[9] = {}, half[kWindow][3];
      for (int64_t o = 0; o < kBlock && first + o < out_channels; ++o)
        for (int tap = 0; tap < 9; ++tap)
          kernel[tap][o] = double(packing::load_scalar(weight + ((first + o) * channels + c) * 9 + tap));
      for (int i = 0; i < kWindow; ++i)
        for (int j = 0; j < 3; ++j)
          for (int64_t o = 0; o < kBlock; ++o)
            half[i][j][o] = kernel[j][o] * winograd::kWeightTransform[i][0] +
                            kernel[3 + j][o] * winograd::kWeightTransform[i][1] +
                            kernel[6 + j][o] * winograd::kWeightTransform[i][2];
      A* to = packed + (first / kBlock * kProducts * channels + c) * kBlock;
      for (int i = 0; i < kWindow; ++i)
        for (int j = 0; j < kWindow; ++j, to += stride)
          for (int64_t o = 0; o < kBlock; ++o)
            to[o] = A(half[i][0][o] * winograd::kWeightTransform[j][0] + half[i][1][o] * winograd::kWeightTransform[j][1] +
                      half[i][2][o] * winograd::kWeightTransform[j][2]);
    }
}

template <class T, class A = packing::Accumulator<T>>
void pack_as(int64_t out_channels, int64_t channels, const void* weight, void* packed) {
  pack(out_channels, channels, static_cast<const T*>(weight), static_cast<A*>(packed));
}

int64_t tile_elements(int64_t out_channels, int64_t channels) {
  return (out_channels + tiles::kOutputs - 1) / tiles::kOutputs * ((channels + tiles::kChannels - 1) / tiles::kChannels) *
         9 * tiles::kElements;
}

void pack_tiles(int64_t out_channels, int64_t channels, const uint16_t* weight, uint16_t* packed) {
  const int64_t chunks = (channels + tiles::kChannels - 1) / tiles::kChannels;
  memset(packed, 0, size_t(tile_elements(out_channels, channels)) * sizeof(uint16_t));
  for (int64_t o = 0; o < out_channels; ++o)
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t tile = (o / tiles::kOutputs * chunks + c / tiles::kChannels) * 9;
      const int64_t place = c % tiles::kChannels / 2 * 2 * tiles::kOutputs + o % tiles::kOutputs * 2 + c % 2;
      for (int64_t tap = 0; tap < 9; ++tap)
        packed[(tile + tap) * tiles::kElements + place] = weight[(o * channels + c) * 9 + tap];
    }
}

bool takes_tiles(DType dtype) { return dtype == DType::kBFloat16 && has_bfloat16_tiles(); }

}  // namespace

int64_t packed_conv3x3_elements(DType dtype, int64_t out_channels, int64_t channels) {
  if (takes_tiles(dtype)) return tile_elements(out_channels, channels) / 2;  // two are as large as a float
  return (out_channels + kBlock - 1) / kBlock * kBlock * channels * kProducts;
}

void pack_conv3x3(DType dtype, int64_t out_channels, int64_t channels, const void* weight, void* packed) {
  if (takes_tiles(dtype))
    return pack_tiles(out_channels, channels, static_cast<const uint16_t*>(weight), static_cast<uint16_t*>(packed));
  switch (dtype) {
    case DType::kFloat64: return pack_as<double>(out_channels, channels, weight, packed);
    case DType::kBFloat16: return pack_as<packing::BFloat16>(out_channels, channels, weight, packed);
    case DType::kFloat16: return pack_as<packing::Float16>(out_channels, channels, weight, packed);
    default: return pack_as<float>(out_channels, channels, weight, packed);
  }
}

}  // namespace cpu
}  // namespace mrda
