// SPDX-License-Identifier: Apache-2.0
// The functions of mrda_kernels._C as operators of torch, for a namespace that the builder names. A call's parameters
// come as two lists of numbers, from RdaConvParams of _C.py; the operator layer in Python has checked them.
#include <torch/library.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../csrc/cpu/launch.h"
#include "registration.h"
#if defined(CUDA_KERNEL)
#include <stdexcept>

#include "../csrc/cuda/launch.h"
#endif

namespace {

using namespace mrda;
using at::Tensor;
using Integers = at::IntArrayRef;
using Slopes = at::ArrayRef<double>;
using MaybeTensor = std::optional<Tensor>;

void* pointer(int64_t address) { return reinterpret_cast<void*>(address); }

View view(int64_t address, Integers strides) {
  TORCH_CHECK(strides.size() == 4, "a tensor does not have the rank that the kernels take");
  return {pointer(address), {strides[0], strides[1], strides[2], strides[3]}};
}

View view(const Tensor& tensor) { return view(int64_t(tensor.data_ptr()), tensor.strides()); }
void* data(const Tensor& tensor) { return tensor.data_ptr(); }
void* data(const MaybeTensor& tensor) { return tensor ? tensor->data_ptr() : nullptr; }

DType dtype_of(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "float64") return DType::kFloat64;
  if (name == "bfloat16") return DType::kBFloat16;
  TORCH_CHECK(name == "float16", "dtype ", name, " is not one that the kernels take");
  return DType::kFloat16;
}

// The parameters of a call, as a struct that begins with those that all calls share.
template <class Call>
Call begin_call(Integers p, Slopes slopes) {
  TORCH_CHECK(p.size() == 16 && slopes.size() == 2, "a call has 16 integers and 2 slopes");
  Call call{};
  call.batch = p[0];
  call.channels = p[1];
  call.height = p[2];
  call.width = p[3];
  call.kernel_size = int(p[4]);
  call.mask_channels = p[5];
  call.negative_slope = slopes[0];
  call.output_negative_slope = slopes[1];
  call.dtype = DType(p[6]);
  call.channels_last = p[7] != 0;
  call.input = view(p[8], p.slice(9, 4));
  call.weight = pointer(p[13]);
  call.mask_weight = pointer(p[14]);
  call.mask_bias = pointer(p[15]);
  return call;
}

void forward_cpu(Integers p, Slopes slopes, const Tensor& output, int64_t threads) {
  auto call = begin_call<RdaConvForward>(p, slopes);
  call.output = view(output);
  cpu::rda_conv_forward(call, int(threads));
}

void backward_cpu(Integers p, Slopes slopes, const Tensor& grad_output, const Tensor& grad_input,
                  const Tensor& grad_weight, const MaybeTensor& grad_mask_weight, const MaybeTensor& grad_mask_bias,
                  int64_t threads) {
  auto call = begin_call<RdaConvBackward>(p, slopes);
  call.grad_output = view(grad_output);
  call.grad_input = view(grad_input);
  call.grad_weight = data(grad_weight);
  call.grad_mask_weight = data(grad_mask_weight);
  call.grad_mask_bias = data(grad_mask_bias);
  cpu::rda_conv_backward(call, int(threads));
}

void conv3x3_cpu(Integers p, Slopes slopes, const Tensor& conv_weight, const Tensor& packed_weight,
                 const MaybeTensor& conv_bias, const MaybeTensor& skip, double final_negative_slope,
                 const Tensor& output, int64_t threads) {
  auto call = begin_call<RdaConv3x3Forward>(p, slopes);
  call.out_channels = conv_weight.size(0);
  call.final_negative_slope = final_negative_slope;
  call.conv_weight = data(conv_weight);
  call.packed_weight = data(packed_weight);
  call.conv_bias = data(conv_bias);
  call.skip = skip ? view(*skip) : View{};
  call.output = view(output);
  cpu::rda_conv3x3_forward(call, int(threads));
}

void conv3x3_weight_gradient_cpu(Integers p, Slopes slopes, const Tensor& grad_output, const Tensor& grad_weight,
                                 int64_t threads) {
  auto call = begin_call<Conv3x3WeightGradient>(p, slopes);
  call.out_channels = grad_weight.size(0);
  call.grad_output = view(grad_output);
  call.grad_weight = data(grad_weight);
  cpu::conv3x3_weight_gradient(call, int(threads));
}

int64_t packed_elements(std::string dtype, int64_t out_channels, int64_t channels) {
  return cpu::packed_conv3x3_elements(dtype_of(dtype), out_channels, channels);
}

void pack_conv3x3(std::string dtype, const Tensor& weight, const Tensor& packed) {
  cpu::pack_conv3x3(dtype_of(dtype), weight.size(0), weight.size(1), data(weight), data(packed));
}

void set_gomp_parallel(int64_t address) { cpu::set_gomp_parallel(cpu::GompParallel(pointer(address))); }

#if defined(CUDA_KERNEL)
void check(const MrdaCudaStatus& status) {
  if (status.code)
    throw std::runtime_error("CUDA kernel " + std::string(status.what) + " failed: " + status.message);
}

bool fuses_cuda(Integers p, Slopes slopes, bool backward) {
  const auto call = begin_call<RdaConvParams>(p, slopes);
  return mrda_cuda_fuses_mask(&call, backward);
}

void forward_cuda(Integers p, Slopes slopes, int64_t output, Integers output_strides, int64_t mask_logits,
                  Integers mask_logits_strides, int64_t device, int64_t stream) {
  auto call = begin_call<gpu::Forward>(p, slopes);
  call.output = view(output, output_strides);
  call.mask_logit = view(mask_logits, mask_logits_strides);
  check(mrda_cuda_forward(&call, int(device), pointer(stream)));
}

bool serves_conv3x3_cuda(std::string dtype, bool channels_last, int64_t kernel_size, int64_t mask_channels,
                         int64_t channels, int64_t out_channels) {
  gpu::Conv3x3 call{};
  call.dtype = dtype_of(dtype);
  call.channels_last = channels_last;
  call.kernel_size = int(kernel_size);
  call.mask_channels = mask_channels;
  call.channels = channels;
  call.out_channels = out_channels;
  return mrda_cuda_serves_conv3x3(&call);
}

void conv3x3_cuda(Integers p, Slopes slopes, int64_t conv_weight, int64_t conv_bias, int64_t skip, int64_t output,
                  int64_t features, Integers output_strides, double final_negative_slope, int64_t device,
                  int64_t stream) {
  auto call = begin_call<gpu::Conv3x3>(p, slopes);
  call.out_channels = call.channels;
  call.final_negative_slope = final_negative_slope;
  call.conv_weight = pointer(conv_weight);
  call.conv_bias = pointer(conv_bias);
  call.skip = view(skip, output_strides);
  call.output = view(output, output_strides);
  call.features = view(features, output_strides);
  check(mrda_cuda_conv3x3(&call, int(device), pointer(stream)));
}

bool serves_conv5x5_cuda(std::string dtype, bool channels_last, int64_t channels, int64_t scale) {
  gpu::Conv5x5 call{};
  call.dtype = dtype_of(dtype);
  call.channels_last = channels_last;
  call.channels = channels;
  call.scale = int(scale);
  return mrda_cuda_serves_conv5x5(&call);
}

int64_t conv5x5_rows_cuda(int64_t channels, int64_t scale) { return mrda_cuda_conv5x5_rows(channels, int(scale)); }

void conv5x5_cuda(Integers p, Slopes slopes, int64_t scale, int64_t packed_weight, int64_t bias, int64_t shift,
                  int64_t output, int64_t device, int64_t stream) {
  auto call = begin_call<gpu::Conv5x5>(p, slopes);
  call.scale = int(scale);
  call.weight = pointer(packed_weight);
  call.bias = static_cast<decltype(call.bias)>(pointer(bias));
  call.shift = static_cast<decltype(call.shift)>(pointer(shift));
  call.output = {pointer(output), {}};
  check(mrda_cuda_conv5x5(&call, int(device), pointer(stream)));
}

int64_t backward_workspace_cuda(Integers p, Slopes slopes, int64_t device) {
  const auto call = begin_call<gpu::Backward>(p, slopes);
  return mrda_cuda_backward_workspace(&call, int(device));
}

void backward_cuda(Integers p, Slopes slopes, int64_t grad_output, Integers grad_output_strides, int64_t residual,
                   Integers residual_strides, int64_t grad_input, Integers grad_input_strides, int64_t grad_weight,
                   int64_t grad_mask_weight, int64_t grad_mask_bias, int64_t workspace, int64_t device,
                   int64_t stream) {
  auto call = begin_call<gpu::Backward>(p, slopes);
  call.grad_output = view(grad_output, grad_output_strides);
  call.residual = view(residual, residual_strides);
  call.grad_input = view(grad_input, grad_input_strides);
  call.grad_weight = pointer(grad_weight);
  call.grad_mask_weight = pointer(grad_mask_weight);
  call.grad_mask_bias = pointer(grad_mask_bias);
  check(mrda_cuda_backward(&call, pointer(workspace), int(device), pointer(stream)));
}

void mask_backward_cuda(Integers p, Slopes slopes, int64_t mask_logits, Integers mask_logits_strides,
                        int64_t grad_output, Integers grad_output_strides, Integers grad_strides, int64_t grad_z,
                        int64_t grad_residual, int64_t grad_mask_logits, int64_t device, int64_t stream) {
  auto call = begin_call<gpu::MaskBackward>(p, slopes);
  call.mask_logit = view(mask_logits, mask_logits_strides);
  call.grad_output = view(grad_output, grad_output_strides);
  call.grad_z = view(grad_z, grad_strides);
  call.grad_residual = view(grad_residual, grad_strides);
  call.grad_mask_logit = view(grad_mask_logits, grad_strides);
  check(mrda_cuda_mask_backward(&call, int(device), pointer(stream)));
}

std::tuple<int64_t, int64_t> cuda_versions() {
  int runtime = 0, driver = 0;
  check(mrda_cuda_versions(&runtime, &driver));
  return {runtime, driver};
}

std::string cuda_architectures() { return MRDA_HAS_CUDA; }
#endif

}  // namespace

TORCH_LIBRARY_EXPAND(TORCH_EXTENSION_NAME, ops) {
  ops.def("rda_conv_forward_cpu(int[] p, float[] slopes, Tensor(a!) output, int threads) -> ()");
  ops.impl("rda_conv_forward_cpu", c10::kCPU, &forward_cpu);
  ops.def(
      "rda_conv_backward_cpu(int[] p, float[] slopes, Tensor grad_output, Tensor(a!) grad_input,"
      " Tensor(b!) grad_weight, Tensor(c!)? grad_mask_weight, Tensor(d!)? grad_mask_bias, int threads) -> ()");
  ops.impl("rda_conv_backward_cpu", c10::kCPU, &backward_cpu);
  ops.def(
      "rda_conv3x3_forward_cpu(int[] p, float[] slopes, Tensor conv_weight, Tensor packed_weight, Tensor? conv_bias,"
      " Tensor? skip, float final_negative_slope, Tensor(a!) output, int threads) -> ()");
  ops.impl("rda_conv3x3_forward_cpu", c10::kCPU, &conv3x3_cpu);
  ops.def(
      "conv3x3_weight_gradient_cpu(int[] p, float[] slopes, Tensor grad_output, Tensor(a!) grad_weight, int threads)"
      " -> ()");
  ops.impl("conv3x3_weight_gradient_cpu", c10::kCPU, &conv3x3_weight_gradient_cpu);
  ops.def("pack_conv3x3(str dtype, Tensor weight, Tensor(a!) packed) -> ()");
  ops.impl("pack_conv3x3", c10::kCPU, &pack_conv3x3);
  ops.def("packed_conv3x3_elements(str dtype, int out_channels, int channels) -> int", &packed_elements);
  ops.def("cpu_instruction_sets() -> str[]", &cpu::instruction_sets);
  ops.def("cpu_instruction_set() -> str", &cpu::instruction_set);
  ops.def("set_gomp_parallel(int address) -> ()", &set_gomp_parallel);
#if defined(CUDA_KERNEL)
  ops.def("rda_conv_fuses_cuda(int[] p, float[] slopes, *, bool backward) -> bool", &fuses_cuda);
  ops.def(
      "rda_conv_forward_cuda(int[] p, float[] slopes, *, int output, int[] output_strides, int mask_logits,"
      " int[] mask_logits_strides, int device, int stream) -> ()",
      &forward_cuda);
  ops.def(
      "rda_conv3x3_serves_cuda(str dtype, *, bool channels_last, int kernel_size, int mask_channels, int channels,"
      " int out_channels) -> bool",
      &serves_conv3x3_cuda);
  ops.def(
      "rda_conv3x3_forward_cuda(int[] p, float[] slopes, *, int conv_weight, int conv_bias, int skip, int output,"
      " int features, int[] output_strides, float final_negative_slope, int device, int stream) -> ()",
      &conv3x3_cuda);
  ops.def(
      "conv5x5_serves_cuda(str dtype, *, bool channels_last, int channels, int scale) -> bool", &serves_conv5x5_cuda);
  ops.def("conv5x5_rows_cuda(int channels, int scale) -> int", &conv5x5_rows_cuda);
  ops.def(
      "conv5x5_forward_cuda(int[] p, float[] slopes, *, int scale, int packed_weight, int bias, int shift, int output,"
      " int device, int stream) -> ()",
      &conv5x5_cuda);
  ops.def("rda_conv_backward_workspace_cuda(int[] p, float[] slopes, *, int device) -> int", &backward_workspace_cuda);
  ops.def(
      "rda_conv_backward_cuda(int[] p, float[] slopes, *, int grad_output, int[] grad_output_strides, int residual,"
      " int[] residual_strides, int grad_input, int[] grad_input_strides, int grad_weight, int grad_mask_weight,"
      " int grad_mask_bias, int workspace, int device, int stream) -> ()",
      &backward_cuda);
  ops.def(
      "rda_conv_mask_backward_cuda(int[] p, float[] slopes, *, int mask_logits, int[] mask_logits_strides,"
      " int grad_output, int[] grad_output_strides, int[] grad_strides, int grad_z, int grad_residual,"
      " int grad_mask_logits, int device, int stream) -> ()",
      &mask_backward_cuda);
  ops.def("cuda_versions() -> (int, int)", &cuda_versions);
  ops.def("cuda_architectures() -> str", &cuda_architectures);
#endif
}

REGISTER_EXTENSION(TORCH_EXTENSION_NAME)
