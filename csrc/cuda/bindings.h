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
      "rda_conv_backward_workspace_cuda",
      [](const RdaConvParams& params) {
        const auto p = begin_call<Backward>(params);
        return mrda_cuda_backward_workspace(&p);
      },
      py::arg("params"), "Bytes of device memory that the backward needs for its partial sums.");

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
        const int64_t elements = mrda_cuda_backward_workspace(&p) / (sum_type == DType::kFloat64 ? 8 : 4);
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
