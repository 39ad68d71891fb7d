// SPDX-License-Identifier: Apache-2.0
// Shared by the Python modules of this project's kernels: converts a call and its tensors to addresses, sizes and
// strides. It calls the tensors' Python methods, so that no torch header is needed. The operator layer in Python owns
// the tensors and has checked them.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "rda_conv.h"

namespace mrda {

namespace py = pybind11;
using Address = uintptr_t;
using Strides = std::array<int64_t, 4>;

inline void* pointer(Address address) { return reinterpret_cast<void*>(address); }

inline View view(Address address, const Strides& strides) {
  return {pointer(address), {strides[0], strides[1], strides[2], strides[3]}};
}

// Integers of a Python tuple, such as a tensor's shape.
template <size_t kCount>
std::array<int64_t, kCount> integers(py::object tuple) {
  if (!PyTuple_Check(tuple.ptr()) || PyTuple_GET_SIZE(tuple.ptr()) != kCount)
    throw py::value_error("a tensor does not have the rank that the kernels take");
  std::array<int64_t, kCount> values;
  for (size_t i = 0; i < kCount; ++i) values[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple.ptr(), i));
  if (PyErr_Occurred()) throw py::error_already_set();
  return values;
}

// Call a method of `object` without arguments; the names here are interned, so that nothing is built.
inline py::object call_method(py::handle object, PyObject* name) {
  PyObject* value = PyObject_CallMethodNoArgs(object.ptr(), name);
  if (!value) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

// The address of a tensor's first element; null for None.
inline void* data(py::handle tensor) {
  static PyObject* const name = PyUnicode_InternFromString("data_ptr");
  return tensor.is_none() ? nullptr : pointer(call_method(tensor, name).cast<Address>());
}

inline std::array<int64_t, 4> shape(py::handle tensor) {
  static PyObject* const name = PyUnicode_InternFromString("shape");
  PyObject* value = PyObject_GetAttr(tensor.ptr(), name);
  if (!value) throw py::error_already_set();
  return integers<4>(py::reinterpret_steal<py::object>(value));
}

// A (B, C, H, W) tensor, any strides.
inline View view(py::handle tensor) {
  static PyObject* const name = PyUnicode_InternFromString("stride");
  return view(Address(data(tensor)), integers<4>(call_method(tensor, name)));
}

inline DType dtype_of(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "float64") return DType::kFloat64;
  if (name == "bfloat16") return DType::kBFloat16;
  if (name == "float16") return DType::kFloat16;
  throw py::value_error("dtype " + name + " is not one that the kernels take");
}

// The parameters of a call as a struct of its own that begins with those that all calls share.
template <class Call>
Call begin_call(const RdaConvParams& common) {
  Call call{};
  static_cast<RdaConvParams&>(call) = common;
  return call;
}

// `call` is an RdaCall of mrda_kernels/call.py, all of whose tensors but the input are contiguous.
inline RdaConvParams params_of(const py::tuple& call, const std::string& dtype, bool channels_last) {
  const py::object input = call[0], weight = call[1], mask_weight = call[2], mask_bias = call[3];
  RdaConvParams p;
  const std::array<int64_t, 4> sizes = shape(input);
  p.batch = sizes[0];
  p.channels = sizes[1];
  p.height = sizes[2];
  p.width = sizes[3];
  p.kernel_size = weight.is_none() ? 1 : int(shape(weight)[3]);
  p.mask_channels = mask_weight.is_none() ? 0 : shape(mask_weight)[0];
  p.negative_slope = call[4].cast<double>();
  p.output_negative_slope = call[5].is_none() ? 1.0 : call[5].cast<double>();  // a slope of 1 is the identity
  p.dtype = dtype_of(dtype);
  p.channels_last = channels_last;
  p.input = view(input);
  p.weight = data(weight);
  p.mask_weight = data(mask_weight);
  p.mask_bias = data(mask_bias);
  return p;
}

inline void bind_params(py::module_& m) {
  py::class_<RdaConvParams>(m, "RdaConvParams", py::module_local())
      .def(py::init(&params_of), py::arg("call"), py::arg("dtype"), py::arg("channels_last"));
}

}  // namespace mrda
