"""Bounds on the distance of a correct implementation from the exact result, element by element.

Notation: hatted values are computed, d(v) bounds |hat v - v|, u is the unit roundoff of the accumulation type
(2^-24 for float32, float16 and bfloat16 inputs, 2^-53 for float64), and gamma(n) = n u / (1 - n u).  The
exact values come from a float64 run, whose own error obeys the same bounds with u = 2^-53; so u + 2^-53 is
used throughout.

Building blocks (Higham, Accuracy and Stability of Numerical Algorithms, chapters 2 and 3):

- A sum of n products, in any order, with or without FMA: |error| <= gamma(n) * sum of |terms|.  If the
  factors carry errors themselves, add the sum of d(factor) * |other factor|.
- Tensor cores, which the CUDA kernels make z and the logit of float16 and bfloat16 with, round towards zero, u = 2^-23:
  each of an addition's terms to the largest one's last place, and the sum to its own. That is two roundings for each
  product, so gamma(2 n) with that u. It bounds other implementations all the more.
- LeakyReLU is Lipschitz: with constant 1 or |slope| where the sign is known, with the larger one where it is
  not. Its product and the slope's rounding to the accumulation type cost 2 u |result|.
- LeakyReLU's derivative jumps at 0: where |z| <= d(z) the sign is not known, and the gradient may be off by
  the jump, |1 - slope| * |gradient from above|.  Test inputs that are small dyadic rationals make z exact,
  d(z) = 0, so that neither the sign nor an exact zero is ever in doubt; ``exact_z`` says so.
- sigmoid(t) = 1 / (1 + e), e = exp(-t).  A relative error of e counts e / (1 + e) = 1 - m of itself in m:
  with d(t), and 8 u (four units in the last place) granted to exp, d(m) <= m (1 - m) exp(d(t)) (d(t) + 8 u) +
  2 u m. The factor exp(d(t)) bounds how much steeper the sigmoid can be inside the interval.  An
  implementation may clamp t where exp would overflow: that is an absolute error below the smallest normal
  number.
- sigmoid's slope s = m - m^2 has d(s) <= |1 - 2 m| d(m) + d(m)^2 + 2 u m: cancellation makes its error
  absolute.
- Winograd's F(4x4, 3x3): y = A^T [sum_c (G w G^T) * (B^T a B)] A in floating point is, to first order, off by at most
  gamma(C + 28) times the same expression of absolute values. Of the 28, an element of G w G^T is computed in float64
  and rounded (8, for float64 itself), one of B^T a B passes two transforms of at most 4 roundings (8) and one of
  A^T m A two more (8); the constants are exact but those of G (2); and 2 are to spare. C is the sum over channels.
- Its gradient of the weights, G^T [sum_n (B^T a B) * (A g A^T)] G over the n windows of all images: gamma(n + 28) times
  the same expression of absolute values. An element of B^T a B passes two transforms of at most 4 roundings, so does
  one of A g A^T (16); one of the sum passes two of at most 5, and of one constant of G each (12). n is the product and
  the sum over windows, in whatever order. That of the features is a convolution of g, with C_out for C.
- The result is rounded once to the output's dtype: + u_out (|v| + d(v)), u_out = eps / 2, and never less than
  half the smallest subnormal number.  float32 and float64 results are in the accumulation type already.

First-order terms are written out; products of roundoffs are covered by a last factor 1 + 2^-10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mrda_kernels import reference
from mrda_kernels.call import RdaCall, accumulation_dtype
from mrda_kernels.conv3x3_call import Conv3x3Call

SECOND_ORDER = 1 + 2**-10
EXP_ERROR = 8  # in units of u


@dataclass
class Bounded:
    """An exact value (float64) and the largest error that it may be met with."""

    value: Tensor
    bound: Tensor

    def error_ratio(self, actual: Tensor) -> Tensor:
        """|error| / bound, element by element; infinite where a finite value is met with NaN or infinity."""
        error = (actual.double() - self.value).abs()
        ratio = torch.where(error == 0, 0.0, error / self.bound)
        return ratio.nan_to_num(nan=math.inf, posinf=math.inf)

    def check(self, actual: Tensor, name: str) -> None:
        """Fail where an error exceeds its bound."""
        assert actual.shape == self.value.shape, f"{name} has shape {tuple(actual.shape)}"
        if actual.numel() == 0:
            return
        ratio = self.error_ratio(actual)
        worst = int(ratio.argmax())
        place = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), ratio.shape))
        assert ratio.max() <= 1, (
            f"{name}{list(place)} is {actual[place].item()}, exactly {self.value[place].item()}: "
            f"{ratio.max().item():.3g} times the error bound; "
            f"{int((ratio > 1).sum())} of {ratio.numel()} are beyond"
        )


def roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


class Arithmetic:
    """The roundoff of a computation on tensors of a dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        accumulation = accumulation_dtype(dtype)
        self.u = roundoff(accumulation) + roundoff(torch.float64)
        self.product_u = self.u if dtype == accumulation else 2 * 2**-23 + roundoff(torch.float64)
        self.tiny = torch.finfo(accumulation).tiny
        info = torch.finfo(dtype)
        self.output_u = 0.0 if dtype == accumulation else roundoff(dtype)
        self.output_tiny = info.tiny * info.eps / 2

    def gamma(self, n: int) -> float:
        return n * self.u / (1 - n * self.u)

    def products(self, n: int) -> float:
        """gamma(n) for a sum that tensor cores may have made."""
        u = self.product_u
        return n * u / (1 - n * u)

    def rounded(self, value: Tensor, bound: Tensor) -> Bounded:
        """The bound after the one rounding to the output's dtype."""
        bound = bound * SECOND_ORDER + self.tiny
        return Bounded(value, bound + self.output_u * (value.abs() + bound) + self.output_tiny)

    def leaky_relu(self, v: Tensor, error: Tensor, slope: float) -> tuple[Tensor, Tensor]:
        out = F.leaky_relu(v, slope)
        steepness = torch.where(v > error, 1.0, torch.where(v <= -error, abs(slope), max(1.0, abs(slope))))
        return out, steepness * error + 2 * self.u * out.abs() * (slope != 1)

    def leaky_relu_backward(
        self, grad: Tensor, grad_error: Tensor, v: Tensor, v_error: Tensor, slope: float
    ) -> tuple[Tensor, Tensor]:
        out = torch.where(v > 0, grad, grad * slope)
        error = torch.where(v > 0, grad_error, grad_error * abs(slope)) + 2 * self.u * out.abs()
        in_doubt = (v.abs() <= v_error) & (v_error > 0)
        jump = abs(1 - slope) * (grad.abs() + grad_error) + grad_error
        return out, torch.where(in_doubt, error + jump, error)


# ---- dynamic_depthwise_conv2d ------------------------------------------------------------------------------


def bare_forward(x: Tensor, w: Tensor) -> Tensor:
    return reference.forward(RdaCall.bare(x, w))


def bare_backward(grad: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    return reference.backward(grad, RdaCall.bare(x, w))


def dynamic_forward(input: Tensor, weight: Tensor, slope: float = 1.0) -> Bounded:
    arithmetic = Arithmetic(input.dtype)
    z, z_error = bounded_z(input, weight)
    return arithmetic.rounded(*arithmetic.leaky_relu(z, z_error, slope))


def bounded_z(input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    x, w = input.double(), weight.double()
    gamma = Arithmetic(input.dtype).products(weight.shape[-1] ** 2)
    return bare_forward(x, w), gamma * bare_forward(x.abs(), w.abs())


def dynamic_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, slope: float = 1.0, *, exact_z: bool = False
) -> list[Bounded]:
    arithmetic = Arithmetic(input.dtype)
    x, w = input.double(), weight.double()
    z, z_error = bounded_z(input, weight)
    grad, grad_error = arithmetic.leaky_relu_backward(
        grad_output.double(), torch.zeros_like(z), z, z_error * (not exact_z), slope
    )
    exact = bare_backward(grad, x, w)
    terms = bare_backward(grad.abs(), x.abs(), w.abs())
    carried = bare_backward(grad_error * (slope != 1), x.abs(), w.abs())
    counts = weight.shape[-1] ** 2, input.shape[2] * input.shape[3]
    return [
        arithmetic.rounded(v, c + arithmetic.gamma(n) * t)
        for v, c, n, t in zip(exact, carried, counts, terms, strict=True)
    ]


# ---- rda_conv2d --------------------------------------------------------------------------------------------


class RdaBudget:
    """Bounds for one call of ``rda_conv2d`` with the arguments of an RdaCall, and for its gradients."""

    def __init__(self, *arguments: Any, exact_z: bool) -> None:
        input, weight, mask_weight, mask_bias, negative_slope, output_negative_slope = RdaCall(*arguments)
        assert mask_weight is not None
        self.arithmetic = Arithmetic(input.dtype)
        u = self.arithmetic.u
        self.x, self.w = x, _ = input.double(), weight.double()
        self.mask_weight = mask_weight.double()
        self.bias = None if mask_bias is None else mask_bias.double()
        self.slope = negative_slope
        self.outer_slope = 1.0 if output_negative_slope is None else output_negative_slope

        self.z, self.z_error = bounded_z(input, weight)
        if exact_z:
            self.z_error = torch.zeros_like(self.z)
        self.f, self.f_error = self.arithmetic.leaky_relu(self.z, self.z_error, self.slope)

        bias = torch.zeros(1) if self.bias is None else self.bias[:, None, None]
        t = torch.einsum("bchw,mc->bmhw", x, self.mask_weight.flatten(1)) + bias
        t_terms = torch.einsum("bchw,mc->bmhw", x.abs(), self.mask_weight.flatten(1).abs()) + bias.abs()
        t_error = self.arithmetic.products(x.shape[1] + 1) * t_terms
        self.m = torch.sigmoid(t)
        self.s = self.m * (1 - self.m)
        self.m_error = self.s * t_error.exp() * (t_error + EXP_ERROR * u) + 2 * u * self.m + self.arithmetic.tiny

        product = self.f * self.m
        self.y = product + x
        self.y_error = (
            self.m * self.f_error + (self.f.abs() + self.f_error) * self.m_error + u * (product.abs() + self.y.abs())
        )

    def forward(self) -> Bounded:
        return self.arithmetic.rounded(*self.arithmetic.leaky_relu(self.y, self.y_error, self.outer_slope))

    def backward(self, grad_output: Tensor) -> list[Bounded]:
        """Gradients of input, weight, mask_weight and mask_bias."""
        u, gamma = self.arithmetic.u, self.arithmetic.gamma
        x, w, mask_weight, m = self.x, self.w, self.mask_weight.flatten(1), self.m
        batch, channels, height, width = x.shape
        masks = mask_weight.shape[0]

        above = grad_output.double()
        g, g_error = self.arithmetic.leaky_relu_backward(
            above, torch.zeros_like(above), self.y, self.y_error, self.outer_slope
        )
        gz, gz_error = self.arithmetic.leaky_relu_backward(
            g * m, m * g_error + g.abs() * self.m_error + u * (g * m).abs(), self.z, self.z_error, self.slope
        )

        gm_terms = (g * self.f).abs()
        gm_error = self.f.abs() * g_error + g.abs() * self.f_error
        gm = g * self.f
        if masks == 1:
            gm, gm_error, gm_terms = (v.sum(1, keepdim=True) for v in (gm, gm_error, gm_terms))
        gm_error = gm_error + gamma(channels if masks == 1 else 1) * gm_terms
        s_error = (1 - 2 * m).abs() * self.m_error + self.m_error**2 + 2 * u * m
        gt = gm * self.s
        gt_error = self.s * gm_error + (gm.abs() + gm_error) * s_error + 2 * u * gt.abs()

        gz_terms = bare_backward(gz.abs(), x.abs(), w.abs())
        gz_carried = bare_backward(gz_error, x.abs(), w.abs())

        def mix(v: Tensor) -> Tensor:
            return torch.einsum("mc,bmhw->bchw", mask_weight.abs(), v)

        def correlate(v: Tensor) -> Tensor:
            return torch.einsum("bmhw,bchw->mc", v, x.abs())[..., None, None]

        pixels = height * width
        bounds = [
            gz_carried[0]
            + g_error
            + mix(gt_error)
            + gamma(w.shape[-1] ** 2 + masks + 1) * (gz_terms[0] + g.abs() + mix(gt.abs())),
            gz_carried[1] + gamma(pixels) * gz_terms[1],
            correlate(gt_error) + gamma(batch * pixels) * correlate(gt.abs()),
            (gt_error + gamma(batch * pixels) * gt.abs()).sum(dim=(0, 2, 3)),
        ]
        exact = reference.backward(above, RdaCall(x, w, self.mask_weight, self.bias, self.slope, self.outer_slope))
        return [self.arithmetic.rounded(v, b) for v, b in zip(exact, bounds, strict=True)]


# ---- rda_conv3x3 -------------------------------------------------------------------------------------------


def conv3x3_forward(
    features: Bounded, call: Conv3x3Call, *, winograd: bool, composed: bool = False, tensor_cores: bool = False
) -> Bounded:
    """Bounds for the 3x3 convolution, the skip and the activation after ``features``, of that call.

    torch's own operators, of which a call is ``composed``, round their results to the call's dtype one by one.
    """
    arithmetic = Arithmetic(call.input.dtype)
    a, w = features.value, call.conv_weight.double()
    largest = a.abs() + features.bound
    out = F.conv2d(a, w, padding=1)
    count = 28 + call.conv_weight.shape[1] if winograd else 9 * call.conv_weight.shape[1]
    terms = winograd_terms(largest, w.abs()) if winograd else F.conv2d(largest, w.abs(), padding=1)
    rounding = arithmetic.products if tensor_cores else arithmetic.gamma
    bound = F.conv2d(features.bound, w.abs(), padding=1) + rounding(count) * terms
    between = arithmetic.output_u if composed else 0.0
    if call.conv_bias is not None:
        out = out + call.conv_bias.double()[:, None, None]
        bound = bound + arithmetic.u * (out.abs() + bound)
    bound = bound + between * (out.abs() + bound)
    if call.skip is not None:
        out = out + call.skip.double()
        bound = bound + (arithmetic.u + between) * (out.abs() + bound)
    slope = 1.0 if call.output_negative_slope is None else call.output_negative_slope
    steepness = torch.where(out > bound, 1.0, torch.where(out <= -bound, abs(slope), max(1.0, abs(slope))))
    result = F.leaky_relu(out, slope)
    return arithmetic.rounded(result, steepness * bound + 2 * arithmetic.u * result.abs() * (slope != 1))


def conv3x3_backward(grad: Tensor, features: Tensor, conv_weight: Tensor) -> list[Bounded]:
    """Bounds for the gradients of features, weights and bias by Winograd's algorithm, of exact arguments."""
    arithmetic = Arithmetic(features.dtype)
    g, a = grad.double(), features.double()
    rotated = conv_weight.flip(2, 3).transpose(0, 1).contiguous()
    of_features = conv3x3_forward(
        Bounded(g, torch.zeros_like(g)), Conv3x3Call.make(grad, rotated, None, None, None), winograd=True
    )
    terms = winograd_weight_terms(a.abs(), g.abs())
    pixels = g.shape[0] * g.shape[2] * g.shape[3]
    exact_error = pixels * roundoff(torch.float64) * direct_weight_gradient(a.abs(), g.abs())
    count = g.shape[0] * math.ceil(g.shape[2] / 4) * math.ceil(g.shape[3] / 4) + 28
    of_weight = arithmetic.rounded(direct_weight_gradient(a, g), arithmetic.gamma(count) * terms + exact_error)
    of_bias = arithmetic.rounded(g.sum((0, 2, 3)), arithmetic.gamma(pixels) * g.abs().sum((0, 2, 3)))
    return [of_features, of_weight, of_bias]


def direct_weight_gradient(features: Tensor, grad: Tensor) -> Tensor:
    """The gradient of a 3x3 convolution's weights by its definition."""
    height, width = grad.shape[2:]
    padded = F.pad(features, (1, 1, 1, 1))
    taps = [padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]
    sums = [torch.einsum("bohw,bchw->oc", grad, tap) for tap in taps]
    return torch.stack(sums, dim=2).unflatten(2, (3, 3))


A, B = 0.625, 1.5  # the points of csrc/cpu/winograd.h
INPUT_TRANSFORM = torch.tensor(
    [
        [A**2 * B**2, 0, -(A**2) - B**2, 0, 1, 0],
        [0, -A * B**2, -(B**2), A, 1, 0],
        [0, A * B**2, -(B**2), -A, 1, 0],
        [0, -B * A**2, -(A**2), B, 1, 0],
        [0, B * A**2, -(A**2), -B, 1, 0],
        [0, A**2 * B**2, 0, -(A**2) - B**2, 0, 1],
    ],
    dtype=torch.float64,
    device="cpu",
)
_SCALE_A, _SCALE_B = 1 / (2 * A**2 * (A**2 - B**2)), 1 / (2 * B**2 * (B**2 - A**2))
WEIGHT_TRANSFORM = torch.tensor(
    [
        [1 / (A**2 * B**2), 0, 0],
        *([_SCALE_A, _SCALE_A * point, _SCALE_A * A**2] for point in (A, -A)),
        *([_SCALE_B, _SCALE_B * point, _SCALE_B * B**2] for point in (B, -B)),
        [0, 0, 1],
    ],
    dtype=torch.float64,
    device="cpu",
)
OUTPUT_TRANSFORM = torch.tensor(
    [[*(point**power for point in (0, A, -A, B, -B)), float(power == 3)] for power in range(4)],
    dtype=torch.float64,
    device="cpu",
)


def winograd_terms(features: Tensor, weight: Tensor) -> Tensor:
    """The sum of the absolute terms of Winograd's convolution, for features and weights that are not negative."""
    return winograd_conv(features, weight, INPUT_TRANSFORM.abs(), WEIGHT_TRANSFORM.abs(), OUTPUT_TRANSFORM.abs())


def winograd_conv(
    features: Tensor,
    weight: Tensor,
    b: Tensor = INPUT_TRANSFORM,
    g: Tensor = WEIGHT_TRANSFORM,
    a: Tensor = OUTPUT_TRANSFORM,
) -> Tensor:
    """Winograd's convolution of (B, C, H, W) with (C_out, C, 3, 3), in float64."""
    height, width = features.shape[2:]
    windows = _windows(features, 1)
    rows, columns = windows.shape[2:4]
    products = torch.einsum(
        "bchwij,ocij->bohwij",
        torch.einsum("ij,bchwjk,lk->bchwil", b, windows, b),
        torch.einsum("ij,ocjk,lk->ocil", g, weight, g),
    )
    outputs = torch.einsum("ij,bohwjk,lk->bohwil", a, products, a)
    return outputs.permute(0, 1, 2, 4, 3, 5).reshape(*outputs.shape[:2], 4 * rows, 4 * columns)[..., :height, :width]


def winograd_weight_terms(features: Tensor, grad: Tensor) -> Tensor:
    """The sum of the absolute terms of Winograd's gradient of the weights, for arguments that are not negative."""
    transforms = INPUT_TRANSFORM.abs(), WEIGHT_TRANSFORM.abs(), OUTPUT_TRANSFORM.abs()
    return winograd_weight_gradient(features, grad, *transforms)


def winograd_weight_gradient(
    features: Tensor,
    grad: Tensor,
    b: Tensor = INPUT_TRANSFORM,
    g: Tensor = WEIGHT_TRANSFORM,
    a: Tensor = OUTPUT_TRANSFORM,
) -> Tensor:
    """Winograd's gradient (C_out, C, 3, 3) of the weights, for features (B, C, H, W), in float64."""
    inputs = torch.einsum("ij,bchwjk,lk->bchwil", b, _windows(features, 1), b)
    grads = torch.einsum("ji,bohwjk,kl->bohwil", a, _windows(grad, 0), a)
    products = torch.einsum("bchwil,bohwil->ocil", inputs, grads)
    return torch.einsum("ji,ocjk,kl->ocil", g, products, g)


def _windows(image: Tensor, border: int) -> Tensor:
    """(B, C, rows, columns, 4 + 2 border, 4 + 2 border): tiles of 4x4 pixels with their borders, padded by zeros."""
    height, width = image.shape[2:]
    size = 4 + 2 * border
    padded = F.pad(image, (border, -width % 4 + border, border, -height % 4 + border))
    return padded.unfold(2, size, 4).unfold(3, size, 4)
