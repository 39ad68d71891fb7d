// SPDX-License-Identifier: Apache-2.0
// Winograd's F(4x4, 3x3): 4x4 outputs of a 3x3 convolution from a 6x6 window by 36 products in place of 144,
//
//   y = A^T [ (G w G^T) * (B^T x B) ] A        (Lavin and Gray, arXiv:1509.09308)
//
// of polynomials through the points 0, +-kPointA, +-kPointB and infinity. With the usual points 0, +-1, +-2 the error
// is about five times that of a direct convolution; with these it is twice, and they and their products below are exact
// in every type.
#pragma once

#include <cstdint>

namespace mrda {
namespace winograd {

constexpr int kOutputs = 4, kWindow = 6, kProducts = kWindow * kWindow;
constexpr int64_t kBlock = 16;  // output channels whose weights lie side by side

constexpr double kPointA = 0.625, kPointB = 1.5;
constexpr double kA2 = kPointA * kPointA, kB2 = kPointB * kPointB;

// G, in float64: the weights are transformed once.
constexpr double kScale0 = 1 / (kA2 * kB2), kScaleA = 1 / (2 * kA2 * (kA2 - kB2)), kScaleB = 1 / (2 * kB2 * (kB2 - kA2));
constexpr double kWeightTransform[kWindow][3] = {
    {kScale0, 0, 0},
    {kScaleA, kScaleA * kPointA, kScaleA * kA2},
    {kScaleA, -kScaleA * kPointA, kScaleA * kA2},
    {kScaleB, kScaleB * kPointB, kScaleB * kB2},
    {kScaleB, -kScaleB * kPointB, kScaleB * kB2},
    {0, 0, 1},
};

// B^T of one column or row of a window, whose elements lie `stride` apart.
template <class A, class V>
static inline __attribute__((always_inline)) void transform_input(V* x, int stride) {
  constexpr A a = A(kPointA), b = A(kPointB), a2 = A(kA2), b2 = A(kB2);
  const V x0 = x[0], x1 = x[stride], x2 = x[2 * stride], x3 = x[3 * stride], x4 = x[4 * stride], x5 = x[5 * stride];
  const V even_a = x4 - x2 * b2, odd_a = (x3 - x1 * b2) * a;
  const V even_b = x4 - x2 * a2, odd_b = (x3 - x1 * a2) * b;
  x[0] = x0 * (a2 * b2) - x2 * (a2 + b2) + x4;
  x[stride] = even_a + odd_a;
  x[2 * stride] = even_a - odd_a;
  x[3 * stride] = even_b + odd_b;
  x[4 * stride] = even_b - odd_b;
  x[5 * stride] = x1 * (a2 * b2) - x3 * (a2 + b2) + x5;
}

// A^T of one column or row of products; the first four elements hold the result.
template <class A, class V>
static inline __attribute__((always_inline)) void transform_output(V* x, int stride) {
  constexpr A a = A(kPointA), b = A(kPointB), a2 = A(kA2), b2 = A(kB2);
  const V x0 = x[0], x5 = x[5 * stride];
  const V even_a = x[stride] + x[2 * stride], odd_a = x[stride] - x[2 * stride];
  const V even_b = x[3 * stride] + x[4 * stride], odd_b = x[3 * stride] - x[4 * stride];
  x[0] = x0 + even_a + even_b;
  x[stride] = odd_a * a + odd_b * b;
  x[2 * stride] = even_a * a2 + even_b * b2;
  x[3 * stride] = odd_a * (a * a2) + odd_b * (b * b2) + x5;
}

// A of one column or row of four gradients of outputs; six elements hold the result.
template <class A, class V>
static inline __attribute__((always_inline)) void transform_output_gradient(V* x, int stride) {
  constexpr A a = A(kPointA), b = A(kPointB), a2 = A(kA2), b2 = A(kB2);
  const V x0 = x[0], x1 = x[stride], x2 = x[2 * stride], x3 = x[3 * stride];
  const V even_a = x0 + x2 * a2, odd_a = (x1 + x3 * a2) * a;
  const V even_b = x0 + x2 * b2, odd_b = (x1 + x3 * b2) * b;
  x[stride] = even_a + odd_a;
  x[2 * stride] = even_a - odd_a;
  x[3 * stride] = even_b + odd_b;
  x[4 * stride] = even_b - odd_b;
  x[5 * stride] = x3;
}

// G^T of one column or row of products; the first three elements hold the result.
template <class A, class V>
static inline __attribute__((always_inline)) void transform_weight_gradient(V* x, int stride) {
  constexpr A s0 = A(kScale0), sa = A(kScaleA), sb = A(kScaleB);
  const V even_a = (x[stride] + x[2 * stride]) * sa, odd_a = (x[stride] - x[2 * stride]) * sa;
  const V even_b = (x[3 * stride] + x[4 * stride]) * sb, odd_b = (x[3 * stride] - x[4 * stride]) * sb;
  x[0] = x[0] * s0 + even_a + even_b;
  x[stride] = odd_a * A(kPointA) + odd_b * A(kPointB);
  x[2 * stride] = even_a * A(kA2) + even_b * A(kB2) + x[5 * stride];
}

// Transforms a window's columns, then its rows: load(row, column) gives each of kSize x kSize elements, and
// store(row, column, value) takes each of the products' factors.
template <class V, int kSize, class Load, class Transform, class Store>
static inline __attribute__((always_inline)) void transform_window(const Load& load, const Transform& transform,
                                                                   const Store& store) {
  V x[kProducts];
#pragma GCC unroll 6
  for (int column = 0; column < kSize; ++column) {
#pragma GCC unroll 6
    for (int row = 0; row < kSize; ++row) x[row * kWindow + column] = load(row, column);
    transform(x + column, kWindow);
  }
#pragma GCC unroll 6
  for (int row = 0; row < kWindow; ++row) {
    transform(x + row * kWindow, 1);
#pragma GCC unroll 6
    for (int column = 0; column < kWindow; ++column) store(row, column, x[row * kWindow + column]);
  }
}

}  // namespace winograd
}  // namespace mrda
