#pragma once

#include <string>
#include <vector>

namespace mrda {
namespace emulation {

// Their names. The first one is right: it reverses 64 numbers.
const std::vector<std::string>& faulty_kernels();
// Runs one on guarded arrays of 64 numbers.
void run_faulty(const std::string& name, float* from, float* to);

}  // namespace emulation
}  // namespace mrda
