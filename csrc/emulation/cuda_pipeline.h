// SPDX-License-Identifier: Apache-2.0
// Asynchronous copies. They do not arrive until they are waited for.
#pragma once

#include "cuda_runtime.h"

inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes) {
  mrda::emulation::copy_async(to, from, bytes);
}
inline void __pipeline_commit() { mrda::emulation::commit(); }
inline void __pipeline_wait_prior(size_t groups) { mrda::emulation::wait_prior(groups); }
