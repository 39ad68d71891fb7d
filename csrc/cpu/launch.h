// SPDX-License-Identifier: Apache-2.0
// Entry points of the CPU backend, which choose an instruction set and share the work among threads.
#pragma once

#include <string>
#include <vector>

#include "../rda_conv.h"

namespace mrda {
namespace cpu {

// Run on at most `threads` threads. Scratch memory is kept per thread; the backward allocates more for its sums.
void rda_conv_forward(const RdaConvForward& params, int threads);
void rda_conv_backward(const RdaConvBackward& params, int threads);

std::vector<std::string> instruction_sets();  // that this machine can run, best first
std::string instruction_set();
void set_instruction_set(const std::string& name);  // throws std::invalid_argument

// The function of libgomp that runs another on a team of threads; libomp has it too.
using GompParallel = void (*)(void (*function)(void*), void* data, unsigned threads, unsigned flags);
void set_gomp_parallel(GompParallel function);  // null: everything runs on the calling thread

}  // namespace cpu
}  // namespace mrda
