// SPDX-License-Identifier: Apache-2.0
// Host side of the kernels for strips.
#include "strip.cuh"

#include <algorithm>

#include "tile.cuh"

namespace mrda {
namespace gpu {

StripPlan plan_strips(const RdaConvParams& p, int columns, int64_t resident, int rows_more) {
  const int64_t strips = (p.width + columns - 1) / columns, all = strips * p.batch;
  StripPlan best{};
  int64_t least = INT64_MAX;
  for (int64_t waves = 1; waves <= 16; ++waves) {
    int64_t tiles = waves * resident / all;
    tiles = tiles < 1 ? 1 : tiles > p.height ? p.height : tiles;
    const int64_t rows = (p.height + tiles - 1) / tiles;
    tiles = (p.height + rows - 1) / rows;
    const int64_t time = (all * tiles + resident - 1) / resident * (rows + rows_more);
    if (time >= least) continue;
    least = time;
    best = {int(strips), int(tiles), int(rows), all * tiles};
  }
  return best;
}

int64_t resident_blocks(int device, int most, int shared_bytes) {
  return int64_t(multiprocessors(device)) * std::max(1, std::min(most, blocks_by_shared_memory(device, shared_bytes)));
}

bool strips_fit(const RdaConvParams& p) {
  return p.kernel_size == 3 && p.mask_channels == 1 && p.dtype != DType::kFloat64 && p.channels >= 16 &&
         p.channels <= 128;
}

namespace {

template <class T>
bool has_vectors(const RdaConvParams& p, const View& view, int channels = kVector<T>) {
  return vector_axis<T>(p, view, channels) == VectorAxis::kChannels;
}

}  // namespace

bool strips_serve(const Forward& p) {
  return strips_fit(p) && !p.mask_logit.data && static_switch(p.dtype, [&](auto element) {
           using T = decltype(element);
           return has_vectors<T>(p, p.input) && has_vectors<T>(p, p.output);
         });
}

bool strips_serve(const Backward& p) {
  return strips_fit(p) && static_switch(p.dtype, [&](auto element) {
           using T = decltype(element);
           return has_vectors<T>(p, p.input) && has_vectors<T>(p, p.grad_output) && has_vectors<T>(p, p.grad_input, 4);
         });
}

}  // namespace gpu
}  // namespace mrda
