// SPDX-License-Identifier: Apache-2.0
// Python functions that call the CUDA kernels: bound for the GPU in mrda_kernels._C, for the emulation in _emulation.
#pragma once

#include <stdexcept>
#include <string>

#include "../bindings.h"
#include "launch.h"

namespace mrda {
namespace gpu {

// Gives the kernels access to a call's buffers. On a GPU they use the buffers themselves, so there is nothing to do.
// The emulation has a class with the same members that copies each buffer between guard pages.
struct DeviceMemory {
  using WhileRunning = py::gil_scoped_release;
  explicit DeviceMemory(const RdaConvParams&) {}
  void image(const char* /* name */, View&, DType, bool /* written */) {}
  template <class Pointer>
  void array(const char* /* name */, Pointer&, int64_t /* elements */, DType, bool /* written */) {}
  void finish() {}  // after the kernels
};

inline DType accumulation_type(DType dtype) { return dtype == DType::kFloat64 ? dtype : DType::kFloat32; }

inline void check(const MrdaCudaStatus& status) {
  if (status.code)
    throw std::runtime_error("CUDA kernel " + std::string(status.what) + " failed: " + status.message);
}

inline int64_t weight_elements(const RdaConvParams& p) {
  return p.batch * p.channels * p.kernel_size * p.kernel_size;
}

// The inputs that all calls have.
template <class Memory>
void add_inputs(Memory& memory, RdaConvParams& p) {
  memory.image("input", p.input, p.dtype, false);
  memory.array("weight", p.weight, weight_elements(p), p.dtype, false);
  memory.array("mask_weight", p.mask_weight, p.mask_channels * p.channels, p.dtype, false);
  memory.array("mask_bias", p.mask_bias, p.mask_channels, p.dtype, false);
}

// Calls run(), which launches kernels and returns a status.
template <class Memory, class Run>
void run_kernels(Memory& memory, Run run) {
  const typename Memory::WhileRunning while_running;
  const MrdaCudaStatus status = run();
  memory.finish();
  check(status);
}

template <class Memory>
void bind(py::module_& m) {
  m.def(
      "rda_conv_fuses_cuda",
      [](const RdaConvParams& p, bool backward) { return mrda_cuda_fuses_mask(&p, backward); }, py::arg("params"),
      py::kw_only(), py::arg("backward"), "True if the kernel can compute the mask logit itself.");

  m.def(
      "rda_conv_forward_cuda",
      [](const RdaConvParams& params, Address output, Strides output_strides, Address mask_logit,
         Strides mask_logit_strides, int device, Address stream) {
        auto p = begin_call<Forward>(params);
        p.output = view(output, output_strides);
        p.mask_logit = view(mask_logit, mask_logit_strides);
        Memory memory(p);
        add_inputs(memory, p);
        memory.image("mask_logit", p.mask_logit, accumulation_type(p.dtype), false);
        memory.image("output", p.output, p.dtype, true);
        run_kernels(memory, [&] { return mrda_cuda_forward(&p, device, pointer(stream)); });
      },
      py::arg("params"), py::kw_only(), py::arg("output"), py::arg("output_strides"), py::arg("mask_logits"),
      py::arg("mask_logits_strides"), py::arg("device"), py::arg("stream"));

  m.def(
      "rda_conv3x3_serves_cuda",
      [](const std::string& dtype, bool channels_last, int kernel_size, int64_t mask_channels, int64_t channels,
         int64_t out_channels) {
        Conv3x3 p{};
        p.dtype = dtype_of(dtype);
        p.channels_last = channels_last;
        p.kernel_size = kernel_size;
        p.mask_channels = mask_channels;
        p.channels = channels;
        p.out_channels = out_channels;
        return mrda_cuda_serves_conv3x3(&p);
      },
      py::arg("dtype"), py::kw_only(), py::arg("channels_last"), py::arg("kernel_size"), py::arg("mask_channels"),
      py::arg("channels"), py::arg("out_channels"), "True if there is a kernel for such a half block.");

  m.def(
      "rda_conv3x3_plan_cuda",
      [](const RdaConvParams& params, int device) {
        const auto p = begin_call<Conv3x3>(params);
        MrdaCudaTile tile;
        check(mrda_cuda_plan_conv3x3(&p, device, &tile));
        return std::make_tuple(tile.columns, tile.rows, tile.cycles);
      },
      py::arg("params"), py::kw_only(), py::arg("device"),
      "Columns and rows of the tile that a block computes, and the predicted clock cycles of a call on the device.");

  m.def(
      "rda_conv3x3_forward_cuda",
      [](const RdaConvParams& params, Address conv_weight, Address conv_bias, Address skip, Address output,
         Address features, Strides output_strides, double final_negative_slope, int device, Address stream) {
        auto p = begin_call<Conv3x3>(params);
        p.out_channels = p.channels;
        p.final_negative_slope = final_negative_slope;
        p.conv_weight = pointer(conv_weight);
        p.conv_bias = pointer(conv_bias);
        p.skip = view(skip, output_strides);
        p.output = view(output, output_strides);
        p.features = view(features, output_strides);
        Memory memory(p);
        add_inputs(memory, p);
        memory.array("conv_weight", p.conv_weight, p.out_channels * 9 * p.channels, p.dtype, false);
        memory.array("conv_bias", p.conv_bias, p.out_channels, p.dtype, false);
        memory.image("skip", p.skip, p.dtype, false);
        memory.image("output", p.output, p.dtype, true);
        memory.image("features", p.features, p.dtype, true);
        run_kernels(memory, [&] { return mrda_cuda_conv3x3(&p, device, pointer(stream)); });
      },
      py::arg("params"), py::kw_only(), py::arg("conv_weight"), py::arg("conv_bias"), py::arg("skip"),
      py::arg("output"), py::arg("features"), py::arg("output_strides"), py::arg("final_negative_slope"),
      py::arg("device"), py::arg("stream"));

  m.def(
      "conv5x5_serves_cuda",
      [](const std::string& dtype, bool channels_last, int64_t channels, int scale) {
        Conv5x5 p{};
        p.dtype = dtype_of(dtype);
        p.channels_last = channels_last;
        p.channels = channels;
        p.scale = scale;
        return mrda_cuda_serves_conv5x5(&p);
      },
      py::arg("dtype"), py::kw_only(), py::arg("channels_last"), py::arg("channels"), py::arg("scale"),
      "True if there is a kernel for such a 5x5 convolution.");

  m.def("conv5x5_rows_cuda", &mrda_cuda_conv5x5_rows, py::arg("channels"), py::arg("scale"),
        "The rows of packed weights for each tap: twice the outputs, padded; 0 if there is no kernel.");

  m.def(
      "conv5x5_forward_cuda",
      [](const RdaConvParams& params, int scale, Address packed_weight, Address bias, Address shift, Address output,
         int device, Address stream) {
        auto p = begin_call<Conv5x5>(params);
        p.scale = scale;
        p.weight = pointer(packed_weight);
        p.bias = pointer(bias);
        p.shift = pointer(shift);
        p.output = view(output, {});
        Memory memory(p);
        const int64_t outputs = 3 * scale * scale;
        memory.image("input", p.input, p.dtype, false);
        memory.array("packed_weight", p.weight, 9 * 25 * mrda_cuda_conv5x5_rows(p.channels, scale) * p.channels, p.dtype, false);
        memory.array("bias", p.bias, 9 * outputs, DType::kFloat32, false);
        memory.array("shift", p.shift, 3, DType::kFloat32, false);
        memory.array("output", p.output.data, p.batch * outputs * p.height * p.width, DType::kFloat32, true);
        run_kernels(memory, [&] { return mrda_cuda_conv5x5(&p, device, pointer(stream)); });
      },
      py::arg("params"), py::kw_only(), py::arg("scale"), py::arg("packed_weight"), py::arg("bias"), py::arg("shift"),
      py::arg("output"), py::arg("device"), py::arg("stream"));

  m.def(
      "rda_conv_backward_workspace_cuda",
      [](const RdaConvParams& params, int device) {
        const auto p = begin_call<Backward>(params);
        return mrda_cuda_backward_workspace(&p, device);
      },
      py::arg("params"), py::kw_only(), py::arg("device"),
      "Bytes of device memory that the backward needs for its partial sums.");

  m.def(
      "rda_conv_backward_cuda",
      [](const RdaConvParams& params, Address grad_output, Strides grad_output_strides, Address residual,
         Strides residual_strides, Address grad_input, Strides grad_input_strides, Address grad_weight,
         Address grad_mask_weight, Address grad_mask_bias, Address workspace, int device, Address stream) {
        auto p = begin_call<Backward>(params);
        p.grad_output = view(grad_output, grad_output_strides);
        p.residual = view(residual, residual_strides);
        p.grad_input = view(grad_input, grad_input_strides);
        p.grad_weight = pointer(grad_weight);
        p.grad_mask_weight = pointer(grad_mask_weight);
        p.grad_mask_bias = pointer(grad_mask_bias);
        void* partial_sums = pointer(workspace);
        Memory memory(p);
        add_inputs(memory, p);
        memory.image("grad_output", p.grad_output, p.dtype, false);
        memory.image("residual", p.residual, p.dtype, false);
        memory.image("grad_input", p.grad_input, p.dtype, true);
        memory.array("grad_weight", p.grad_weight, weight_elements(p), p.dtype, true);
        memory.array("grad_mask_weight", p.grad_mask_weight, p.mask_channels * p.channels, p.dtype, true);
        memory.array("grad_mask_bias", p.grad_mask_bias, p.mask_channels, p.dtype, true);
        const DType sum_type = accumulation_type(p.dtype);
        const int64_t elements = mrda_cuda_backward_workspace(&p, device) / (sum_type == DType::kFloat64 ? 8 : 4);
        memory.array("workspace", partial_sums, elements, sum_type, true);
        run_kernels(memory, [&] { return mrda_cuda_backward(&p, partial_sums, device, pointer(stream)); });
      },
      py::arg("params"), py::kw_only(), py::arg("grad_output"), py::arg("grad_output_strides"), py::arg("residual"),
      py::arg("residual_strides"), py::arg("grad_input"), py::arg("grad_input_strides"), py::arg("grad_weight"),
      py::arg("grad_mask_weight"), py::arg("grad_mask_bias"), py::arg("workspace"), py::arg("device"),
      py::arg("stream"));

  m.def(
      "rda_conv_mask_backward_cuda",
      [](const RdaConvParams& params, Address mask_logit, Strides mask_logit_strides, Address grad_output,
         Strides grad_output_strides, Strides grad_strides, Address grad_z, Address grad_residual,
         Address grad_mask_logit, int device, Address stream) {
        auto p = begin_call<MaskBackward>(params);
        p.mask_logit = view(mask_logit, mask_logit_strides);
        p.grad_output = view(grad_output, grad_output_strides);
        p.grad_z = view(grad_z, grad_strides);
        p.grad_residual = view(grad_residual, grad_strides);
        p.grad_mask_logit = view(grad_mask_logit, grad_strides);
        Memory memory(p);
        add_inputs(memory, p);
        memory.image("mask_logit", p.mask_logit, p.dtype, false);
        memory.image("grad_output", p.grad_output, p.dtype, false);
        memory.image("grad_z", p.grad_z, p.dtype, true);
        memory.image("grad_residual", p.grad_residual, p.dtype, true);
        memory.image("grad_mask_logit", p.grad_mask_logit, p.dtype, true);
        run_kernels(memory, [&] { return mrda_cuda_mask_backward(&p, device, pointer(stream)); });
      },
      py::arg("params"), py::kw_only(), py::arg("mask_logits"), py::arg("mask_logits_strides"), py::arg("grad_output"),
      py::arg("grad_output_strides"), py::arg("grad_strides"), py::arg("grad_z"), py::arg("grad_residual"),
      py::arg("grad_mask_logits"), py::arg("device"), py::arg("stream"));
}

}  // namespace gpu
}  // namespace mrda
