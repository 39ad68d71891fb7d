import math

import formulas
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mrda.degradations import bicubic


def rounding(dtype, ratio, length):
    """Two dot products of 4/ratio + 2 terms, with inputs below 1 and absolute weights summing to less than 2.

    Tap positions up to `length` are rounded in float64, where the cubic's slope stays below 2.
    """
    terms = 4 / min(ratio, 1.0) + 2
    return 2 * terms * (4 * torch.finfo(dtype).eps + 2 * length * torch.finfo(torch.float64).eps)


@given(
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    ratio=st.sampled_from([1 / 4, 1 / 3, 1 / 2, 0.7, 1, 1.5, 2, 3, 4]),
    border=st.sampled_from(["clamp", "mirror"]),
    seed=st.integers(0, 1000),
)
def test_it_follows_the_definition(height, width, ratio, border, seed):
    x = np.random.default_rng(seed).random((2, 1, height, width))
    expected = formulas.bicubic(x, ratio, border)
    if 0 in expected.shape:
        with pytest.raises(ValueError, match=r"scale is .*, but must leave at least one pixel"):
            bicubic(torch.from_numpy(x), ratio, border)
        return
    got = bicubic(torch.from_numpy(x), ratio, border).numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=rounding(torch.float64, ratio, max(height, width)))


@pytest.mark.parametrize(("height", "ratio"), [(300, 1 / 4), (600, 1 / 4), (70, 4)])
def test_axes_long_enough_for_several_blocks(height, ratio):
    x = np.random.default_rng(0).random((1, 1, height, 4))
    got = bicubic(torch.from_numpy(x), ratio).numpy()
    np.testing.assert_allclose(got, formulas.bicubic(x, ratio), rtol=0, atol=rounding(torch.float64, ratio, height))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("shrink", [True, False])
def test_the_interior_is_torchs_antialiased_bicubic(scale, shrink):
    x = torch.rand(2, 3, 24 * scale, 18 * scale, dtype=torch.float64)
    ratio = 1 / scale if shrink else scale
    size = [round(n * ratio) for n in x.shape[2:]]
    expected = F.interpolate(x, size=size, mode="bicubic", antialias=True)
    # Outputs within two source (or target, where enlarging) pixels of the border differ in their border rule.
    cut = 2 if shrink else 2 * scale
    inner = (..., slice(cut, -cut), slice(cut, -cut))
    budget = rounding(torch.float64, ratio, x.shape[2])
    torch.testing.assert_close(bicubic(x, ratio)[inner], expected[inner], rtol=0, atol=budget)
    assert (bicubic(x, ratio, "clamp") - bicubic(x, ratio, "mirror"))[inner].abs().max() <= budget
    assert (bicubic(x, ratio, "clamp") - bicubic(x, ratio, "mirror")).abs().max() > 1e-3


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_what_torchs_bicubic_does_otherwise(scale):
    x = torch.rand(1, 2, 3 * scale, 4 * scale, dtype=torch.float64)
    size = [scale * n for n in x.shape[2:]]
    budget = {"rtol": 0, "atol": rounding(torch.float64, scale, x.shape[3])}
    # Without antialiasing a is -0.75 and pixels outside repeat the edge.
    plain = F.interpolate(x, size=size, mode="bicubic", align_corners=False).numpy()
    np.testing.assert_allclose(plain, formulas.bicubic(x.numpy(), scale, "clamp", a=-0.75), **budget)
    assert np.abs(bicubic(x, scale).numpy() - plain).max() > 1e-3
    # With it a is -0.5, and pixels outside count for nothing, enlarging or shrinking.
    for ratio in (scale, 1 / scale):
        size = [round(ratio * n) for n in x.shape[2:]]
        smooth = F.interpolate(x, size=size, mode="bicubic", antialias=True).numpy()
        expected = formulas.bicubic(x.numpy(), ratio, "drop")
        np.testing.assert_allclose(smooth, expected, rtol=0, atol=rounding(torch.float64, ratio, x.shape[3]))
        assert np.abs(bicubic(x, ratio).numpy() - smooth).max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ratio", [1 / 4, 3])
def test_every_dtype(dtype, ratio):
    x = torch.rand(2, 3, 16, 12).to(dtype)
    got = bicubic(x, ratio)
    assert got.dtype == dtype
    error = (got.double() - bicubic(x.double(), ratio)).abs().max().item()
    assert error <= rounding(dtype, ratio, 16)


def test_autocast_leaves_it_alone():
    x = torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = bicubic(x, 1 / 4)
    assert torch.equal(inside, bicubic(x, 1 / 4))


@pytest.mark.parametrize("ratio", [1 / 2, 2])
def test_gradient(ratio):
    x = torch.rand(1, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: bicubic(x, ratio), x)


def test_constants_stay_and_overshoot_is_not_clipped():
    # Weights sum to 1 up to their rounding to float32.
    torch.testing.assert_close(
        bicubic(torch.full((1, 1, 8, 8), 0.7), 1 / 4),
        torch.full((1, 1, 2, 2), 0.7),
        rtol=0,
        atol=rounding(torch.float32, 1 / 4, 8),
    )
    edge = torch.zeros(1, 1, 1, 16)
    edge[..., 8:] = 1
    enlarged = bicubic(edge, 4)
    assert enlarged.min() < -0.05
    assert enlarged.max() > 1.05


@pytest.mark.parametrize("scale", [3, 7, 49])
def test_size_is_exact_where_the_ratio_is_not(scale):
    assert bicubic(torch.rand(1, 1, 3 * scale, 5 * scale), 1 / scale).shape == (1, 1, 3, 5)
    assert bicubic(torch.rand(1, 1, 4 * scale - 1, 5 * scale), 1 / scale).shape == (1, 1, 3, 5)


def test_layouts_give_the_same_numbers():
    x = torch.rand(2, 3, 8, 12)
    expected = bicubic(x, 1 / 4)
    assert torch.equal(bicubic(x.to(memory_format=torch.channels_last), 1 / 4), expected)
    assert expected.is_contiguous()


@pytest.mark.parametrize(
    ("x", "scale", "border", "error", "match"),
    [
        (torch.rand(3, 8, 8), 2, "clamp", ValueError, r"x has shape \(3, 8, 8\), but must be \(B, C, H, W\)"),
        (
            torch.ones(1, 3, 8, 8, dtype=torch.uint8),
            2,
            "clamp",
            TypeError,
            "x has dtype torch.uint8, but must be a floating point",
        ),
        (torch.rand(1, 3, 8, 8), 0, "clamp", ValueError, "scale is 0, but must be positive"),
        (torch.rand(1, 3, 8, 8), "x", "clamp", TypeError, "scale is 'x', but must be a number"),
        (torch.rand(1, 3, 8, 8), -2, "clamp", ValueError, "scale is -2, but must be positive"),
        (torch.rand(1, 3, 8, 8), math.nan, "clamp", ValueError, "scale is nan, but must be finite"),
        (torch.rand(1, 3, 8, 3), 1 / 4, "clamp", ValueError, r"at least one pixel of \(8, 3\)"),
        (
            torch.rand(1, 3, 8, 8),
            2,
            "wrap",
            ValueError,
            "border is 'wrap', but must be one of 'clamp', 'mirror'",
        ),
    ],
)
def test_bad_input(x, scale, border, error, match):
    with pytest.raises(error, match=match):
        bicubic(x, scale, border)


def test_weights_made_for_inference_serve_training_too():
    with torch.inference_mode():
        bicubic(torch.rand(1, 1, 22, 4, dtype=torch.float64), 1 / 2)
    x = torch.rand(1, 1, 22, 4, dtype=torch.float64, requires_grad=True)
    bicubic(x, 1 / 2).sum().backward()
    assert x.grad is not None
