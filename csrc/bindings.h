// What the Python modules of this project's kernels share: how a call's tensors are handed over, as addresses, sizes and
// strides. The operator layer in Python owns the tensors and has checked them.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "rda_conv.h"

namespace mrda {

namespace py = pybind11;
using Address = uintptr_t;
using Strides = std::array<int64_t, 4>;

inline void* pointer(Address address) { return reinterpret_cast<void*>(address); }

inline View view(Address address, const Strides& strides) {
  return {pointer(address), {strides[0], strides[1], strides[2], strides[3]}};
}

// The parameters of a call as a struct of its own that begins with those that all calls share.
template <class Call>
Call begin_call(const RdaConvParams& common) {
  Call call{};
  static_cast<RdaConvParams&>(call) = common;
  return call;
}

inline void bind_params(py::module_& m) {
  py::enum_<DType>(m, "DType", py::module_local())
      .value("float32", DType::kFloat32)
      .value("float64", DType::kFloat64)
      .value("bfloat16", DType::kBFloat16)
      .value("float16", DType::kFloat16);

  const auto make = [](std::array<int64_t, 4> shape, int kernel_size, int64_t mask_channels, double negative_slope,
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
  };
  py::class_<RdaConvParams>(m, "RdaConvParams", py::module_local())
      .def(py::init(make), py::kw_only(), py::arg("shape"), py::arg("kernel_size"), py::arg("mask_channels"),
           py::arg("negative_slope"), py::arg("output_negative_slope"), py::arg("dtype"), py::arg("channels_last"),
           py::arg("input"), py::arg("input_strides"), py::arg("weight"), py::arg("mask_weight"), py::arg("mask_bias"));
}

}  // namespace mrda
