// SPDX-License-Identifier: Apache-2.0
// The weights of a 3x3 convolution as tiles of the processor's matrix unit: for 32 input and 16 output channels, pairs
// of neighbouring input channels side by side, as its products of bfloat16 take them. A block of 16 output channels is
// [C / 32][tap][pair][output][2], padded with zeros.
#pragma once

#include <cstdint>

namespace mrda {
namespace tiles {

constexpr int64_t kOutputs = 16, kPairs = 16, kChannels = 2 * kPairs, kElements = kChannels * kOutputs;

}  // namespace tiles
}  // namespace mrda
