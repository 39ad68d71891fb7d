// SPDX-License-Identifier: Apache-2.0
// The RDA convolution, once for every processor: the parameters of a call, and the arithmetic of one element.
//
//   z = sum_ij weight[b,c,i,j] * input[b,c,h+i-p,w+j-p]        p = K/2, zero outside the image
//   mask = sigmoid(sum_c mask_weight[m,c] * input[b,c,h,w] + mask_bias[m])
//   y = leaky_relu(leaky_relu(z, negative_slope) * mask + input, output_negative_slope)
//
// Without a mask it is the bare dynamic convolution, y = leaky_relu(z, negative_slope); its backward is that of y = z.
//
// The functions below take a scalar or a vector of lanes: they use only operators that both have.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define MRDA_HOST_DEVICE __host__ __device__
#else
#define MRDA_HOST_DEVICE
#endif

namespace mrda {

// As a template argument for the kernel size K: any size, known at run time only.
constexpr int kAnyKernelSize = 0;

enum class DType : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

// A (B, C, H, W) tensor: strides count elements and may be anything, 0 included.
struct View {
  void* data;
  int64_t stride[4];
};

struct RdaConvParams {
  int64_t batch, channels, height, width;
  int kernel_size;        // odd
  int64_t mask_channels;  // 1 or `channels`; 0 for the bare dynamic convolution
  double negative_slope;
  double output_negative_slope;  // 1, the identity, if the result is not activated
  DType dtype;
  bool channels_last;  // the memory format of `output` and `grad_input`, which decides how the work is cut

  View input;
  const void* weight;       // (B, C, K, K), contiguous
  const void* mask_weight;  // (M, C), contiguous
  const void* mask_bias;    // (M,), or null for zero
};

struct RdaConvForward : RdaConvParams {
  View output;
};

// Half an RDA block: a 3x3 convolution, zero padding 1, of an RDA convolution's result, rounded to `dtype`.
//
//   y = leaky_relu(conv2d(a, conv_weight) + conv_bias + skip, final_negative_slope)
//
// Without `weight`, `a` is the input itself.
struct RdaConv3x3Forward : RdaConvForward {
  int64_t out_channels;
  double final_negative_slope;  // 1, the identity, if the result is not activated
  const void* conv_weight;      // (C_out, C, 3, 3), contiguous
  const void* packed_weight;    // the same in the kernels' own layout and the accumulation type, by pack_conv3x3
  const void* conv_bias;        // (C_out,), or null for zero
  View skip;                    // (B, C_out, H, W); null data for none
};

// The gradient of a 3x3 convolution's weights, zero padding 1; what belongs to an RDA convolution is not used.
struct Conv3x3WeightGradient : RdaConvParams {
  int64_t out_channels;
  View grad_output;   // (B, C_out, H, W)
  void* grad_weight;  // (C_out, C, 3, 3), contiguous, in the accumulation type
};

// Gradients of weight, mask_weight and mask_bias are written in the accumulation type: float, or double for float64.
// Without a mask, the latter two are not written.
struct RdaConvBackward : RdaConvParams {
  View grad_output;
  View grad_input;
  void* grad_weight;
  void* grad_mask_weight;
  void* grad_mask_bias;
};

// All functions have internal linkage: the CPU backend compiles them once per instruction set, and the linker must
// not merge the copies.

// Adds one tap to a sum.
template <class V, class W>
MRDA_HOST_DEVICE static inline V add_tap(V sum, W weight, V x) {
  return sum + weight * x;
}

// True for the coordinates inside an image of `size`; the image is zero outside.
MRDA_HOST_DEVICE static inline bool inside(int64_t at, int64_t size) { return at >= 0 && at < size; }

// The taps around position `at` that are inside an image of `size`.
struct TapRange {
  int64_t first, last;
  MRDA_HOST_DEVICE TapRange(int64_t at, int64_t size, int64_t kernel_size)
      : first(at < kernel_size / 2 ? kernel_size / 2 - at : 0),
        last(size - at <= kernel_size / 2 ? size - at + kernel_size / 2 : kernel_size) {}
  MRDA_HOST_DEVICE bool whole(int64_t kernel_size) const { return first == 0 && last == kernel_size; }
};

template <class V>
MRDA_HOST_DEVICE static inline V leaky_relu(V x, V slope) {
  return x > V{} ? x : x * slope;
}

// The gradient of leaky_relu at x, times `grad`. At exactly 0 it is the slope, as in torch.
template <class V>
MRDA_HOST_DEVICE static inline V leaky_relu_backward(V grad, V x, V slope) {
  return x > V{} ? grad : grad * slope;
}

// The derivative of the sigmoid where its value is `mask`.
template <class V>
MRDA_HOST_DEVICE static inline V sigmoid_slope(V mask) {
  return mask - mask * mask;
}

template <class V>
struct Slopes {
  V inner, outer;
};

// The result of one element, from the convolution's sum, the mask and the input.
template <class V>
MRDA_HOST_DEVICE static inline V apply_mask(V z, V mask, V x, Slopes<V> slopes) {
  return leaky_relu(leaky_relu(z, slopes.inner) * mask + x, slopes.outer);
}

template <class V>
struct MaskGrads {
  V grad_residual;  // with respect to the `+ input` term
  V grad_z;
  V grad_mask;  // with respect to the mask
};

template <class V>
MRDA_HOST_DEVICE static inline MaskGrads<V> apply_mask_backward(V grad_y, V z, V mask, V x, Slopes<V> slopes) {
  const V features = leaky_relu(z, slopes.inner);
  const V grad = leaky_relu_backward(grad_y, features * mask + x, slopes.outer);
  return {grad, leaky_relu_backward(grad * mask, z, slopes.inner), grad * features};
}

}  // namespace mrda
