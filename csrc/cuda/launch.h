// The CUDA kernels as C functions: addresses, sizes, strides, a device and a stream; no torch, no CUDA header.
#pragma once

#include "../rda_conv.h"

namespace mrda {
namespace gpu {

// Two ways to the modulation map's logits: a kernel sums over the channels as it goes (M = 1, mask_weight given, few
// enough channels: see mrda_cuda_fuses), or finds them in memory, `logits` (B, C, H, W) in the accumulation type, with
// a channel stride of 0 where all channels share a map. Neither: the bare dynamic convolution.
struct Forward : RdaConvForward {
  View logits;
};

// Gradients of weight, mask_weight and mask_bias are written in the input's type. With logits in memory there are
// none of the latter two; and `residual`, in the input's type and null for none, is added to grad_input: the gradient
// that does not come through the convolution.
struct Backward : RdaConvBackward {
  View residual;
};

// For logits in memory, float or double: the gradients of the convolution's result, of the `+ input` term and, channel
// by channel, of the logits.
struct ModulationBackward : RdaConvParams {
  View logits;
  View grad_output;
  View grad_z, grad_residual, grad_logits;
};

}  // namespace gpu
}  // namespace mrda

extern "C" {

// 0, or CUDA's error code and what failed: a kernel's name or a call's.
struct MrdaCudaStatus {
  int code;
  const char* what;
  const char* message;
};

// Of the runtime that is built in, and what the driver offers, as 1000 * major + 10 * minor; 0 for no driver.
MrdaCudaStatus mrda_cuda_versions(int* runtime, int* driver);

// Whether the kernel of that direction sums the mask over the channels itself.
bool mrda_cuda_fuses(const mrda::RdaConvParams* params, bool backward);
// Memory that the backward needs besides its results, on the device.
int64_t mrda_cuda_backward_workspace(const mrda::gpu::Backward* params);

MrdaCudaStatus mrda_cuda_forward(const mrda::gpu::Forward* params, int device, void* stream);
MrdaCudaStatus mrda_cuda_backward(const mrda::gpu::Backward* params, void* workspace, int device, void* stream);
MrdaCudaStatus mrda_cuda_modulation_backward(const mrda::gpu::ModulationBackward* params, int device, void* stream);

}
