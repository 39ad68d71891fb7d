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
void rda_conv3x3_forward(const RdaConv3x3Forward& params, int threads);
void conv3x3_weight_gradient(const Conv3x3WeightGradient& params, int threads);

// The weights of a 3x3 convolution as rda_conv3x3_forward takes them, in numbers of the accumulation type: Winograd's
// transform of each kernel, in blocks of output channels that lie side by side, [block][product][C][kBlock], padded with
// zeros; or bfloat16 in the layout of tiles.h, if the instruction set in use takes that.
int64_t packed_conv3x3_elements(DType dtype, int64_t out_channels, int64_t channels);
void pack_conv3x3(DType dtype, int64_t out_channels, int64_t channels, const void* weight, void* packed);

std::vector<std::string> instruction_sets();  // that this machine can run, best first
std::string instruction_set();
bool has_bfloat16_tiles();  // of the instruction set in use: a matrix unit for the 3x3 convolution
void set_instruction_set(const std::string& name);  // throws std::invalid_argument

// The function of libgomp that runs another on a team of threads; libomp has it too.
using GompParallel = void (*)(void (*function)(void*), void* data, unsigned threads, unsigned flags);
void set_gomp_parallel(GompParallel function);  // null: everything runs on the calling thread

}  // namespace cpu
}  // namespace mrda
