// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace mrda {
namespace emulation {

// Names of the kernels. The first one is correct: it reverses 64 numbers.
const std::vector<std::string>& faulty_kernels();
// Runs a kernel on two arrays of 64 numbers.
void run_faulty(const std::string& name, float* from, float* to);

}  // namespace emulation
}  // namespace mrda
