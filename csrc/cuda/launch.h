// SPDX-License-Identifier: Apache-2.0
// C interface of the CUDA kernels: addresses, sizes, strides, a device and a stream; no torch and no CUDA header.
#pragma once

#include "../rda_conv.h"

namespace mrda {
namespace gpu {

// The mask is sigmoid(mask_logit). There are two ways to give a kernel the logit:
//
// - Fused: the kernel computes it, as the sum over the channels of mask_weight * input. This needs M = 1 and all
//   channels in one thread block: see mrda_cuda_fuses_mask.
// - In memory: `mask_logit`, (B, C, H, W) in the accumulation type. Its channel stride is 0 if all channels share one
//   mask. mask_channels is 0 then.
//
// A call that has neither is the bare dynamic convolution.
struct Forward : RdaConvForward {
  View mask_logit;
};

// The gradients of weight, mask_weight and mask_bias are written in the input's type. If the mask logit is in memory,
// the mask's gradients come from MaskBackward and a matrix product instead, and this is the backward of the bare
// convolution; `residual`, in the input's type or null, is the rest of the input's gradient and is added to it.
struct Backward : RdaConvBackward {
  View residual;
};

// Elementwise half of the backward with the mask logit in memory, for float and double: the gradients of z, of the
// `+ input` term and of the logit, the last one separately for every channel.
struct MaskBackward : RdaConvParams {
  View mask_logit;
  View grad_output;
  View grad_z, grad_residual, grad_mask_logit;
};

// Half an RDA block. `features`, which is output's size and strides, or null, gets the RDA convolution's result too.
struct Conv3x3 : RdaConv3x3Forward {
  View features;
};

// A 5x5 convolution to 3 scale^2 channels, with other weights for the outermost ring of pixels, and a pixel shuffle.
// `weight` is contiguous as (9, 5, 5, mrda_cuda_conv5x5_rows, C): of the 3 x 3 kinds of rows and columns, the two terms
// of the weights of all outputs, one after the other, each padded with zeros.
struct Conv5x5 : RdaConvParams {
  int scale;
  const void* bias;   // (9, 3 scale^2), float
  const void* shift;  // (3,), float, or null for zero
  View output;        // (B, 3, scale H, scale W), float, contiguous
};

}  // namespace gpu
}  // namespace mrda

extern "C" {

// `code` is 0 or CUDA's error code; `what` is the kernel or the CUDA function that failed.
struct MrdaCudaStatus {
  int code;
  const char* what;
  const char* message;
};

// The pixels that each block of a launch computes, and how many clock cycles all will probably take.
struct MrdaCudaTile {
  int columns, rows;
  int64_t cycles;
};

// CUDA versions of the built-in runtime and of the driver, as 1000 * major + 10 * minor; 0 if there is no driver.
MrdaCudaStatus mrda_cuda_versions(int* runtime, int* driver);

// True if the kernel of that direction can compute the mask logit itself.
bool mrda_cuda_fuses_mask(const mrda::RdaConvParams* params, bool backward);
// Bytes of device memory that the backward needs for its partial sums; of `params`, the gradients' views are not read.
int64_t mrda_cuda_backward_workspace(const mrda::gpu::Backward* params, int device);

MrdaCudaStatus mrda_cuda_forward(const mrda::gpu::Forward* params, int device, void* stream);
MrdaCudaStatus mrda_cuda_backward(const mrda::gpu::Backward* params, void* workspace, int device, void* stream);
MrdaCudaStatus mrda_cuda_mask_backward(const mrda::gpu::MaskBackward* params, int device, void* stream);

// Half an RDA block in one kernel. To tell if it serves a call takes its dtype, layout and numbers of channels. Here `conv_weight` is contiguous as (C_out, 3, 3, C), without `packed_weight`;
// output, features and skip are channels_last, as the input is. All addresses are multiples of 16.
bool mrda_cuda_serves_conv3x3(const mrda::gpu::Conv3x3* params);
MrdaCudaStatus mrda_cuda_plan_conv3x3(const mrda::gpu::Conv3x3* params, int device, MrdaCudaTile* tile);
MrdaCudaStatus mrda_cuda_conv3x3(const mrda::gpu::Conv3x3* params, int device, void* stream);

bool mrda_cuda_serves_conv5x5(const mrda::gpu::Conv5x5* params);
// Rows of the packed weights of each tap; 0 if there is no kernel for so many channels and that scale.
int mrda_cuda_conv5x5_rows(int64_t channels, int scale);
MrdaCudaStatus mrda_cuda_conv5x5(const mrda::gpu::Conv5x5* params, int device, void* stream);

}
