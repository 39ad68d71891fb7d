"""A wrong call gets one sentence that names the argument, what it was and what it must be."""

import re

import pytest
import torch

from mrda_kernels import dynamic_depthwise_conv2d, rda_conv2d

OPS = torch.ops.mrda_kernels
GOOD = {
    "input": torch.zeros(2, 3, 4, 5),
    "weight": torch.zeros(2, 3, 3, 3),
    "mask_weight": torch.zeros(1, 3, 1, 1),
    "mask_bias": torch.zeros(1),
    "grad_output": torch.zeros(2, 3, 4, 5),
}
THE_FOUR = r"but must be float32, float64, bfloat16 or float16"

BAD_INPUT_AND_WEIGHT = [
    ({"input": torch.zeros(3, 4, 5)}, ValueError, "input has shape (3, 4, 5), but must be (B, C, H, W)"),
    (
        {"input": torch.zeros(2, 3, 4, 5, dtype=torch.int64)},
        TypeError,
        f"input has dtype torch.int64, {THE_FOUR}",
    ),
    (
        {"input": torch.zeros(2, 3, 4, 5, dtype=torch.complex64)},
        TypeError,
        f"input has dtype torch.complex64, {THE_FOUR}",
    ),
    ({"weight": torch.zeros(2, 3, 9)}, ValueError, "weight has shape (2, 3, 9), but must be (B, C, K, K)"),
    (
        {"weight": torch.zeros(2, 3, 3, 5)},
        ValueError,
        "weight has shape (2, 3, 3, 5), but must be (B, C, K, K)",
    ),
    (
        {"weight": torch.zeros(1, 3, 3, 3)},
        ValueError,
        "weight has shape (1, 3, 3, 3), but its first two sizes must be input's (B, C) = (2, 3)",
    ),
    (
        {"weight": torch.zeros(2, 4, 3, 3)},
        ValueError,
        "weight has shape (2, 4, 3, 3), but its first two sizes must be input's (B, C) = (2, 3)",
    ),
    *(
        (
            {"weight": torch.zeros(2, 3, k, k)},
            ValueError,
            f"weight has a kernel size K of {k}, but K must be 1, 3, 5 or 7",
        )
        for k in (0, 2, 4, 9)
    ),
    (
        {"weight": torch.zeros(2, 3, 3, 3, dtype=torch.float64)},
        TypeError,
        "weight has dtype torch.float64, but must have input's, torch.float32",
    ),
]
BAD_MASK = [
    *(
        (
            {"mask_weight": torch.zeros(shape)},
            ValueError,
            f"mask_weight has shape {shape}, but must be (M, C, 1, 1) with input's C = 3",
        )
        for shape in ((1, 3), (1, 4, 1, 1), (1, 3, 3, 3))
    ),
    *(
        (
            {"mask_weight": torch.zeros(m, 3, 1, 1)},
            ValueError,
            f"mask_weight makes M = {m} masks, but M must be 1 or input's C = 3",
        )
        for m in (0, 2, 6)
    ),
    (
        {"mask_weight": torch.zeros(1, 3, 1, 1, dtype=torch.float16)},
        TypeError,
        "mask_weight has dtype torch.float16, but must have input's, torch.float32",
    ),
    ({"mask_bias": torch.zeros(3)}, ValueError, "mask_bias has shape (3,), but must be (M,) = (1,)"),
    ({"mask_bias": torch.zeros(1, 1)}, ValueError, "mask_bias has shape (1, 1), but must be (M,) = (1,)"),
    (
        {"mask_bias": torch.zeros(1, dtype=torch.bfloat16)},
        TypeError,
        "mask_bias has dtype torch.bfloat16, but must have input's, torch.float32",
    ),
]
BAD_GRAD_OUTPUT = [
    (
        {"grad_output": torch.zeros(2, 3, 5, 4)},
        ValueError,
        "grad_output has shape (2, 3, 5, 4), but must have input's, (2, 3, 4, 5)",
    ),
    (
        {"grad_output": torch.zeros(2, 3, 4, 5, dtype=torch.float64)},
        TypeError,
        "grad_output has dtype torch.float64, but must have input's, torch.float32",
    ),
]
BAD_SLOPES = [
    ({name: value}, ValueError, f"{name} is {value}, but must be a finite number")
    for name in ("negative_slope", "output_negative_slope")
    for value in (float("nan"), float("inf"), -float("inf"))
]

BAD_BARE_SLOPES = [case for case in BAD_SLOPES if "negative_slope" in case[0]]


def merged(bad, device="cpu"):
    arguments = GOOD | {"negative_slope": 0.1, "output_negative_slope": None} | bad
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}


def call_ops(name, a):
    """One of the four operators, through torch.ops."""
    rda = (
        a["input"],
        a["weight"],
        a["mask_weight"],
        a["mask_bias"],
        a["negative_slope"],
        a["output_negative_slope"],
    )
    calls = {
        "rda_conv2d": lambda: OPS.rda_conv2d(*rda, None),
        "rda_conv2d_backward": lambda: OPS.rda_conv2d_backward(a["grad_output"], *rda, None),
        "dynamic_depthwise_conv2d": lambda: OPS.dynamic_depthwise_conv2d(*rda[:2], rda[4], None),
        "dynamic_depthwise_conv2d_backward": lambda: OPS.dynamic_depthwise_conv2d_backward(
            a["grad_output"], *rda[:2], rda[4], None
        ),
    }
    return calls[name]()


def expect(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize("name", list(GOOD))
def test_the_good_call_is_good(name):
    for device in ("cpu", "meta"):
        for op in (
            "rda_conv2d",
            "rda_conv2d_backward",
            "dynamic_depthwise_conv2d",
            "dynamic_depthwise_conv2d_backward",
        ):
            call_ops(op, merged({name: GOOD[name]}, device))


@pytest.mark.parametrize(("bad", "error", "message"), [*BAD_INPUT_AND_WEIGHT, *BAD_MASK, *BAD_SLOPES])
def test_rda_conv2d(bad, error, message):
    arguments = merged(bad)
    del arguments["grad_output"]
    with expect(error, message):
        rda_conv2d(**arguments)


@pytest.mark.parametrize(("bad", "error", "message"), [*BAD_INPUT_AND_WEIGHT, *BAD_BARE_SLOPES])
def test_dynamic_depthwise_conv2d(bad, error, message):
    arguments = merged(bad)
    with expect(error, message):
        dynamic_depthwise_conv2d(arguments["input"], arguments["weight"], negative_slope=arguments["negative_slope"])


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("op", "cases"),
    [
        ("rda_conv2d", [*BAD_INPUT_AND_WEIGHT, *BAD_MASK, *BAD_SLOPES]),
        ("rda_conv2d_backward", [*BAD_INPUT_AND_WEIGHT, *BAD_MASK, *BAD_SLOPES, *BAD_GRAD_OUTPUT]),
        ("dynamic_depthwise_conv2d", [*BAD_INPUT_AND_WEIGHT, *BAD_BARE_SLOPES]),
        ("dynamic_depthwise_conv2d_backward", [*BAD_INPUT_AND_WEIGHT, *BAD_BARE_SLOPES, *BAD_GRAD_OUTPUT]),
    ],
)
def test_through_torch_ops_on_real_and_meta_tensors(op, cases, device):
    for bad, error, message in cases:
        with expect(error, message):
            call_ops(op, merged(bad, device))


@pytest.mark.parametrize("name", ["weight", "mask_weight", "mask_bias"])
def test_mixed_devices(name):
    arguments = merged({})
    arguments[name] = arguments[name].to("meta")
    del arguments["grad_output"]
    with expect(ValueError, f"{name} is on meta, but must be on input's device, cpu"):
        rda_conv2d(**arguments)


@pytest.mark.parametrize("name", ["input", "weight", "mask_weight", "mask_bias"])
def test_something_that_is_no_tensor(name):
    arguments = merged({name: [1.0]})
    del arguments["grad_output"]
    with expect(TypeError, f"{name} is list, but must be a torch.Tensor"):
        rda_conv2d(**arguments)
    if name in {"input", "weight"}:
        with expect(TypeError, f"{name} is list, but must be a torch.Tensor"):
            dynamic_depthwise_conv2d(arguments["input"], arguments["weight"])


def test_the_same_sentences_inside_torch_func():
    with expect(ValueError, "weight has a kernel size K of 2, but K must be 1, 3, 5 or 7"):
        torch.func.vmap(lambda x: rda_conv2d(x, torch.zeros(2, 3, 2, 2), GOOD["mask_weight"]))(GOOD["input"][None])


def test_the_same_sentence_under_torch_compile():
    compiled = torch.compile(rda_conv2d, backend="aot_eager")
    with pytest.raises(Exception, match="weight has a kernel size K of 2, but K must be 1, 3, 5 or 7"):
        compiled(GOOD["input"], torch.zeros(2, 3, 2, 2), GOOD["mask_weight"])


@pytest.mark.parametrize("bad", ["0.1", 1j, torch.tensor(0.1)], ids=str)
@pytest.mark.parametrize("name", ["negative_slope", "output_negative_slope"])
def test_a_slope_must_be_a_number(name, bad):
    tensors = [GOOD[key] for key in ("input", "weight", "mask_weight", "mask_bias")]
    with pytest.raises(TypeError, match=f"^{name} is {type(bad).__name__}, but must be a number$"):
        rda_conv2d(*tensors, **{name: bad})


@pytest.mark.parametrize("name", ["input", "weight", "mask_weight", "mask_bias"])
def test_a_tensor_must_be_dense(name):
    tensors = {key: GOOD[key] for key in ("input", "weight", "mask_weight", "mask_bias")}
    tensors[name] = tensors[name].to_sparse()
    with pytest.raises(TypeError, match=f"^{name} has layout torch.sparse_coo, but must be torch.strided$"):
        rda_conv2d(**tensors)


def test_meta_tensors_get_a_shape():
    tensors = [GOOD[key].to("meta") for key in ("input", "weight", "mask_weight", "mask_bias")]
    assert rda_conv2d(*tensors).shape == GOOD["input"].shape
    assert dynamic_depthwise_conv2d(*tensors[:2]).shape == GOOD["input"].shape
