// The Python module mrda_kernels._C: plain functions on addresses, sizes and strides. The operator layer in Python
// owns the tensors and has checked them; no torch header is needed, so one binary serves every torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "cpu/launch.h"

namespace py = pybind11;
using mrda::DType;
using mrda::RdaConvBackward;
using mrda::RdaConvForward;
using mrda::RdaConvParams;
using mrda::View;

namespace {

using Address = uintptr_t;
using Strides = std::array<int64_t, 4>;

void* pointer(Address address) { return reinterpret_cast<void*>(address); }

View view(Address address, const Strides& strides) {
  return {pointer(address), {strides[0], strides[1], strides[2], strides[3]}};
}

// What forward and backward have in common, as one Python object.
RdaConvParams params(std::array<int64_t, 4> shape, int kernel_size, int64_t mask_channels, double negative_slope,
                     double output_negative_slope, DType dtype, bool channels_last, Address input, Strides input_strides,
                     Address weight, Address mask_weight, Address mask_bias) {
  RdaConvParams p;
  p.batch = shape[0];
  p.channels = shape[1];
  p.height = shape[2];
  p.width = shape[3];
  p.kernel_size = kernel_size;
  p.mask_channels = mask_channels;
  p.negative_slope = negative_slope;
  p.output_negative_slope = output_negative_slope;
  p.dtype = dtype;
  p.channels_last = channels_last;
  p.input = view(input, input_strides);
  p.weight = pointer(weight);
  p.mask_weight = pointer(mask_weight);
  p.mask_bias = pointer(mask_bias);
  return p;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of mrda_kernels.";

  py::enum_<DType>(m, "DType")
      .value("float32", DType::kFloat32)
      .value("float64", DType::kFloat64)
      .value("bfloat16", DType::kBFloat16)
      .value("float16", DType::kFloat16);

  py::class_<RdaConvParams>(m, "RdaConvParams")
      .def(py::init(&params), py::kw_only(), py::arg("shape"), py::arg("kernel_size"), py::arg("mask_channels"),
           py::arg("negative_slope"), py::arg("output_negative_slope"), py::arg("dtype"), py::arg("channels_last"),
           py::arg("input"), py::arg("input_strides"), py::arg("weight"), py::arg("mask_weight"), py::arg("mask_bias"));

  m.def(
      "rda_conv_forward_cpu",
      [](const RdaConvParams& common, Address output, Strides output_strides, int threads) {
        RdaConvForward p;
        static_cast<RdaConvParams&>(p) = common;
        p.output = view(output, output_strides);
        py::gil_scoped_release release;
        mrda::cpu::rda_conv_forward(p, threads);
      },
      py::arg("params"), py::kw_only(), py::arg("output"), py::arg("output_strides"), py::arg("threads"));

  m.def(
      "rda_conv_backward_cpu",
      [](const RdaConvParams& common, Address grad_output, Strides grad_output_strides, Address grad_input,
         Strides grad_input_strides, Address grad_weight, Address grad_mask_weight, Address grad_mask_bias, int threads) {
        RdaConvBackward p;
        static_cast<RdaConvParams&>(p) = common;
        p.grad_output = view(grad_output, grad_output_strides);
        p.grad_input = view(grad_input, grad_input_strides);
        p.grad_weight = pointer(grad_weight);
        p.grad_mask_weight = pointer(grad_mask_weight);
        p.grad_mask_bias = pointer(grad_mask_bias);
        py::gil_scoped_release release;
        mrda::cpu::rda_conv_backward(p, threads);
      },
      py::arg("params"), py::kw_only(), py::arg("grad_output"), py::arg("grad_output_strides"), py::arg("grad_input"),
      py::arg("grad_input_strides"), py::arg("grad_weight"), py::arg("grad_mask_weight"), py::arg("grad_mask_bias"),
      py::arg("threads"));

  m.def("cpu_instruction_sets", &mrda::cpu::instruction_sets, "Those this machine can run, best first.");
  m.def("cpu_instruction_set", &mrda::cpu::instruction_set);
  m.def("set_cpu_instruction_set", &mrda::cpu::set_instruction_set, py::arg("name"));
  m.def(
      "set_gomp_parallel",
      [](Address address) { mrda::cpu::set_gomp_parallel(reinterpret_cast<mrda::cpu::GompParallel>(address)); },
      py::arg("address"), "The address of GOMP_parallel in the OpenMP runtime that torch uses; 0 for none.");
}
