// SPDX-License-Identifier: Apache-2.0
// Weights of a 3x3 convolution, transformed once for any number of calls, in one layout for all instruction sets.
#define MRDA_ISA packing
#include "launch.h"
#include "simd.h"
#include "winograd.h"

namespace mrda {
namespace cpu {
namespace {

using winograd::kBlock;
using winograd::kProducts;
using winograd::kWindow;

template <class T, class A = packing::Accumulator<T>>
void pack(int64_t out_channels, int64_t channels, const T* weight, A* packed) {
  for (int64_t o = 0; o < (out_channels + kBlock - 1) / kBlock * kBlock; ++o) {
    for (int64_t c = 0; c < channels; ++c) {
      A* to = packed + (o / kBlock * kProducts * channels + c) * kBlock + o % kBlock;
      const int64_t stride = channels * kBlock;  // from product to product
      if (o >= out_channels) {
        for (int product = 0; product < kProducts; ++product) to[product * stride] = 0;
        continue;
      }
      const T* kernel = weight + (o * channels + c) * 9;
      double half[kWindow][3];
      for (int i = 0; i < kWindow; ++i)
        for (int j = 0; j < 3; ++j) {
          half[i][j] = 0;
          for (int k = 0; k < 3; ++k)
            half[i][j] += winograd::kWeightTransform[i][k] * double(packing::load_scalar(kernel + 3 * k + j));
        }
      for (int i = 0; i < kWindow; ++i)
        for (int j = 0; j < kWindow; ++j) {
          double sum = 0;
          for (int k = 0; k < 3; ++k) sum += half[i][k] * winograd::kWeightTransform[j][k];
          to[(i * kWindow + j) * stride] = A(sum);
        }
    }
  }
}

template <class T, class A = packing::Accumulator<T>>
void pack_as(int64_t out_channels, int64_t channels, const void* weight, void* packed) {
  pack(out_channels, channels, static_cast<const T*>(weight), static_cast<A*>(packed));
}

}  // namespace

int64_t packed_conv3x3_elements(int64_t out_channels, int64_t channels) {
  return (out_channels + kBlock - 1) / kBlock * kBlock * channels * kProducts;
}

void pack_conv3x3(DType dtype, int64_t out_channels, int64_t channels, const void* weight, void* packed) {
  switch (dtype) {
    case DType::kFloat64: return pack_as<double>(out_channels, channels, weight, packed);
    case DType::kBFloat16: return pack_as<packing::BFloat16>(out_channels, channels, weight, packed);
    case DType::kFloat16: return pack_as<packing::Float16>(out_channels, channels, weight, packed);
    default: return pack_as<float>(out_channels, channels, weight, packed);
  }
}

}  // namespace cpu
}  // namespace mrda
