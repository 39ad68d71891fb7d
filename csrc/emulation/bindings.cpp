// SPDX-License-Identifier: Apache-2.0
// The Python module mrda_kernels._emulation: the CUDA kernels on the CPU, on guarded copies of the tensors, and the
// controls of the emulation.
#include "../cuda/bindings.h"

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "emulation.h"
#include "faulty.h"
#include "product.h"

using namespace mrda;

namespace {

size_t bytes_of(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

class GuardedMemory {
 public:
  struct WhileRunning {  // keeps the GIL: the emulation can only run one call at a time
    WhileRunning() {}
  };

  explicit GuardedMemory(const RdaConvParams& p) : shape_{p.batch, p.channels, p.height, p.width} {
    emulation::fault.clear();
  }

  void image(const char* name, View& view, DType dtype, bool written) {
    int64_t elements = 1;  // from the first to the last one in memory
    for (int i = 0; i < 4; ++i) elements += (shape_[i] - 1) * view.stride[i];
    array(name, view.data, elements, dtype, written);
  }
  template <class Pointer>
  void array(const char* name, Pointer& data, int64_t elements, DType dtype, bool written) {
    if (!data || elements == 0) return;
    buffers_.push_back({std::make_unique<emulation::Guarded>(name, data, size_t(elements) * bytes_of(dtype)),
                        written ? const_cast<void*>(static_cast<const void*>(data)) : nullptr});
    data = buffers_.back().copy->data();
  }
  void finish() {
    for (const Buffer& buffer : buffers_)
      if (buffer.original) memcpy(buffer.original, buffer.copy->data(), buffer.copy->bytes());
  }

 private:
  struct Buffer {
    std::unique_ptr<emulation::Guarded> copy;
    void* original;  // where to copy a result back to; null for an input
  };
  int64_t shape_[4];
  std::vector<Buffer> buffers_;
};

}  // namespace

PYBIND11_MODULE(_emulation, m) {
  m.doc() = "The CUDA kernels of mrda_kernels on the CPU, for tests.";
  bind_params(m);
  gpu::bind<GuardedMemory>(m);

  py::enum_<emulation::Order>(m, "Order", py::module_local())
      .value("forward", emulation::Order::kForward)
      .value("reverse", emulation::Order::kReverse)
      .value("shuffled", emulation::Order::kShuffled);
  m.def(
      "control",
      [](emulation::Order order, uint32_t seed, int capability, int multiprocessors, uint8_t fill, int64_t skip_barrier,
         int64_t skip_barrier_thread, int64_t drop_copy, int64_t shift_copy, int64_t wrong_lane, int64_t skip_block) {
        emulation::controls = {order,        seed,       capability,          multiprocessors,
                               fill,         skip_barrier, skip_barrier_thread, drop_copy,
                               shift_copy,   wrong_lane, skip_block};
        emulation::shared_accesses = {};
        emulation::most_shared_bytes = 0;
      },
      py::kw_only(), py::arg("order") = emulation::Order::kShuffled, py::arg("seed") = 0, py::arg("capability") = 90,
      py::arg("multiprocessors") = 2, py::arg("fill") = 0xff, py::arg("skip_barrier") = -1,
      py::arg("skip_barrier_thread") = -1, py::arg("drop_copy") = -1, py::arg("shift_copy") = -1,
      py::arg("wrong_lane") = -1, py::arg("skip_block") = -1,
      "Set the order in which threads run and the GPU, and plant faults; see csrc/emulation/emulation.h.");
  m.def(
      "shared_accesses",
      [] { return std::pair(emulation::shared_accesses.phases, emulation::shared_accesses.conflicts); },
      "Phases of accesses to shared memory by vectors and matrices since `control`, and those with bank conflicts.");

  m.def(
      "most_shared_bytes", [] { return emulation::most_shared_bytes; },
      "The most dynamic shared memory of a block, of all launches since `control`.");

  m.def("faulty_kernels", &emulation::faulty_kernels, "Names for run_faulty; the first kernel is correct.");
  m.def(
      "run_faulty",
      [](const std::string& name, const std::array<float, 64>& values) {
        emulation::fault.clear();
        const emulation::Guarded from("from", values.data(), sizeof(values)), to("to", nullptr, sizeof(values));
        emulation::run_faulty(name, static_cast<float*>(from.data()), static_cast<float*>(to.data()));
        if (!emulation::fault.empty()) throw std::runtime_error(emulation::fault);
        std::array<float, 64> result;
        memcpy(result.data(), to.data(), sizeof(result));
        return result;
      },
      py::arg("name"), py::arg("values"), "Run a kernel with a planted mistake on 64 numbers.");

  using Matrix = std::vector<std::vector<float>>;
  m.def(
      "product",
      [](const Matrix& a, const Matrix& b, const Matrix& c, bool half, bool conflicts, int absent) {
        emulation::fault.clear();
        emulation::Product product{{}, {}, {}, {}, half, conflicts, absent};
        for (int row = 0; row < 16; ++row) {
          for (int k = 0; k < 16; ++k) product.a[row][k] = a.at(row).at(k);
          for (int column = 0; column < 8; ++column) {
            product.b[column][row] = b.at(row).at(column);
            product.c[row][column] = c.at(row).at(column);
          }
        }
        emulation::run(product);
        if (!emulation::fault.empty()) throw std::runtime_error(emulation::fault);
        Matrix sum(16, std::vector<float>(8));
        for (int row = 0; row < 16; ++row) sum[row].assign(product.sum[row], product.sum[row] + 8);
        return sum;
      },
      py::arg("a"), py::arg("b"), py::arg("c"), py::kw_only(), py::arg("half") = false, py::arg("conflicts") = false,
      py::arg("absent") = -1, "Compute a * b + c, of 16 x 16, 16 x 8 and 16 x 8 numbers, as a warp's tensor cores do.");
}
