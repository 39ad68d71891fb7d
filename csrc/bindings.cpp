// SPDX-License-Identifier: Apache-2.0
// The Python module mrda_kernels._C. No torch header is needed, so one binary serves every torch.
#include "bindings.h"

#include "cpu/launch.h"
#if defined(MRDA_HAS_CUDA)
#include "cuda/bindings.h"
#endif

using namespace mrda;

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of mrda_kernels.";
  bind_params(m);

  m.def(
      "rda_conv_forward_cpu",
      [](const RdaConvParams& params, py::handle output, int threads) {
        auto p = begin_call<RdaConvForward>(params);
        p.output = view(output);
        py::gil_scoped_release release;
        cpu::rda_conv_forward(p, threads);
      },
      py::arg("params"), py::arg("output"), py::arg("threads"));

  m.def(
      "rda_conv_backward_cpu",
      [](const RdaConvParams& params, py::handle grad_output, py::handle grad_input, py::handle grad_weight,
         py::handle grad_mask_weight, py::handle grad_mask_bias, int threads) {
        auto p = begin_call<RdaConvBackward>(params);
        p.grad_output = view(grad_output);
        p.grad_input = view(grad_input);
        p.grad_weight = data(grad_weight);
        p.grad_mask_weight = data(grad_mask_weight);
        p.grad_mask_bias = data(grad_mask_bias);
        py::gil_scoped_release release;
        cpu::rda_conv_backward(p, threads);
      },
      py::arg("params"), py::arg("grad_output"), py::arg("grad_input"), py::arg("grad_weight"),
      py::arg("grad_mask_weight"), py::arg("grad_mask_bias"), py::arg("threads"));

  m.def(
      "rda_conv3x3_forward_cpu",
      [](const RdaConvParams& params, py::handle conv_weight, py::handle packed_weight, py::handle conv_bias,
         py::handle skip, double final_negative_slope, py::handle output, int threads) {
        auto p = begin_call<RdaConv3x3Forward>(params);
        p.out_channels = shape(conv_weight)[0];
        p.final_negative_slope = final_negative_slope;
        p.conv_weight = data(conv_weight);
        p.packed_weight = data(packed_weight);
        p.conv_bias = data(conv_bias);
        p.skip = skip.is_none() ? View{} : view(skip);
        p.output = view(output);
        py::gil_scoped_release release;
        cpu::rda_conv3x3_forward(p, threads);
      },
      py::arg("params"), py::arg("conv_weight"), py::arg("packed_weight"), py::arg("conv_bias"), py::arg("skip"),
      py::arg("final_negative_slope"), py::arg("output"), py::arg("threads"));

  m.def(
      "conv3x3_weight_gradient_cpu",
      [](const RdaConvParams& params, py::handle grad_output, py::handle grad_weight, int threads) {
        auto p = begin_call<Conv3x3WeightGradient>(params);
        p.out_channels = shape(grad_weight)[0];
        p.grad_output = view(grad_output);
        p.grad_weight = data(grad_weight);
        py::gil_scoped_release release;
        cpu::conv3x3_weight_gradient(p, threads);
      },
      py::arg("params"), py::arg("grad_output"), py::arg("grad_weight"), py::arg("threads"));

  m.def(
      "packed_conv3x3_elements",
      [](const std::string& dtype, int64_t out_channels, int64_t channels) {
        return cpu::packed_conv3x3_elements(dtype_of(dtype), out_channels, channels);
      },
      py::arg("dtype"), py::arg("out_channels"), py::arg("channels"));
  m.def(
      "pack_conv3x3",
      [](const std::string& dtype, py::handle weight, py::handle packed) {
        const auto [out_channels, channels, rows, columns] = shape(weight);
        (void)rows, (void)columns;
        cpu::pack_conv3x3(dtype_of(dtype), out_channels, channels, data(weight), data(packed));
      },
      py::arg("dtype"), py::arg("weight"), py::arg("packed"));

  m.def("cpu_instruction_sets", &cpu::instruction_sets, "The instruction sets that this machine can run, best first.");
  m.def("cpu_instruction_set", &cpu::instruction_set);
  m.def("set_cpu_instruction_set", &cpu::set_instruction_set, py::arg("name"));
  m.def(
      "set_gomp_parallel",
      [](Address address) { cpu::set_gomp_parallel(reinterpret_cast<cpu::GompParallel>(address)); }, py::arg("address"),
      "Set the address of GOMP_parallel in the OpenMP runtime that torch uses; 0 for none.");

#if defined(MRDA_HAS_CUDA)
  gpu::bind<gpu::DeviceMemory>(m);
  m.attr("cuda_architectures") = MRDA_HAS_CUDA;
  m.def(
      "cuda_versions",
      [] {
        int runtime = 0, driver = 0;
        gpu::check(mrda_cuda_versions(&runtime, &driver));
        return std::make_pair(runtime, driver);
      },
      "The versions of the built-in CUDA runtime and of the driver, as 1000 * major + 10 * minor; 0 for no driver.");
#endif
}
