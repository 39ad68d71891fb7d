# SPDX-License-Identifier: Apache-2.0
"""Time half an RDA block, one (op "rdab") and the 27 of the published trunk in a row (op "trunk") against other ways.

    python benchmarks/rda_block.py --device cpu --quick --json benchmarks/results/rda_block_cpu.json

Features (B, C, H, W) and the compressed IDR (B, C) go in; the blocks predict their kernels from it. With the backward,
there are gradients of both and of all parameters. Providers are those of benchmarks/rda_conv.py: each peer is the same
block with another way to compute its two RDA convs. A compiled peer is one compiled block, called 27 times by the
trunk. The floor is "convolutions", the blocks' 3x3 convolutions by oneDNN and nothing else, which are the same for all.

Op "rda_conv3x3" is the first half of a block, forward, from features and predicted kernels. Beside the peers are
"composition", our RDA conv and torch's convolution, and two parts of ours by themselves: "rda_conv2d" and "conv3x3".

Op "upscaler" is the collapsed upscaler, x4, from the trunk's features to SR: ours, and the "composition" of torch's
operators. Only a GPU has a kernel for it.
"""

import copy
import os
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.rda_block` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # before torch is imported: its profiler would write to the terminal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import commands
from benchmarks.harness import Arguments, Candidate, Effort, Operator, call, fresh_start, measure
from benchmarks.peers import Transform, providers, use_peer
from benchmarks.records import MEMORY_FORMATS, MODES, OURS, Record, Setting
from mrda.networks.layers import NEGATIVE_SLOPE
from mrda.networks.rda_conv import RDAConv
from mrda.networks.rdan import RDAB
from mrda_kernels import conv3x3, conv5x5_shuffle, pack_conv3x3, pack_conv5x5, rda_conv2d, rda_conv3x3

HALF, UPSCALER = "rda_conv3x3", "upscaler"
BLOCKS = {"rdab": 1, "trunk": 27}
KERNEL_SIZE = 3
SCALE = 4  # of the upscaler
SHAPES = ((1, 64, 180, 320), (16, 64, 64, 64))


def main(arguments: Sequence[str] | None = None) -> None:
    """Time one RDA block and a trunk of 27 against the released network's way, torch.compile, and convolutions."""
    command = commands.comparison_parser(__doc__, quick="one shape in float32, channels_last; the trunk forward only")
    options = command.parse_args(arguments)
    commands.run_comparison(command, options, settings(options.device, options.quick), measure_setting)


def settings(device: str, quick: bool) -> list[Setting]:
    """Everything to measure, in order: the layout that convolutions are fastest in comes first."""
    if quick:
        kinds = ((HALF, "forward"), ("rdab", "forward"), ("rdab", "forward_backward"), ("trunk", "forward"))
        return [Setting(device, torch.float32, "nhwc", SHAPES[0], mode, op) for op, mode in kinds]
    todo = product(("nhwc", "nchw"), (torch.bfloat16, torch.float32), SHAPES, MODES, (HALF, *BLOCKS))
    kinds = [Setting(device, dtype, layout, shape, mode, op) for layout, dtype, shape, mode, op in todo]
    kinds = [kind for kind in kinds if kind.mode == "forward" or kind.op != HALF]
    if device == "cuda":
        kinds.insert(1, Setting(device, torch.bfloat16, "nhwc", SHAPES[0], "forward", UPSCALER))
    return kinds


def random_blocks(setting: Setting) -> nn.ModuleList:
    """Blocks as `mrda.networks` initialises them, the same for every dtype and layout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = nn.ModuleList(
            RDAB(setting.shape[1], kernel_size=KERNEL_SIZE) for _ in range(BLOCKS.get(setting.op, 1))
        )
    blocks.requires_grad_(setting.mode == "forward_backward")
    return blocks.to(setting.device, setting.dtype).to(memory_format=MEMORY_FORMATS[setting.layout])


def random_arguments(setting: Setting, blocks: nn.ModuleList) -> Arguments:
    """Draw features and IDR; the parameters of the blocks follow them."""
    generator = torch.Generator(setting.device).manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=setting.device).to(setting.dtype)

    features, grad_output = (
        draw(*setting.shape).contiguous(memory_format=MEMORY_FORMATS[setting.layout]) for _ in range(2)
    )
    needs_grad = setting.mode == "forward_backward"
    inputs = [t.requires_grad_(needs_grad) for t in (features, draw(*setting.shape[:2]))]
    return Arguments((*inputs, *blocks.parameters()), grad_output)


def computing(setting: Setting, blocks: nn.ModuleList, arguments: Arguments) -> dict[str, Candidate]:
    """The providers of the whole op, by name; all share the parameters of `blocks`."""

    def sharing_copy() -> nn.ModuleList:
        return copy.deepcopy(blocks, memo={id(p): p for p in blocks.parameters()})

    def peer(conv: Operator, transform: Transform) -> Operator:
        copied = sharing_copy()
        use_peer(copied, conv)
        return in_a_row(copied, transform(run_block))

    def ours(backend: str | None) -> Operator:
        copied = sharing_copy()
        for module in copied.modules():
            if isinstance(module, RDAConv):
                module.backend = backend
        return in_a_row(copied)

    return providers(setting, arguments, peer, ours)


def half(setting: Setting, block: RDAB, arguments: Arguments) -> dict[str, Candidate]:
    """The providers of the first half of a block and its parts, by name."""
    steered, conv = block.halves()[0]
    features, idr, *_ = arguments.tensors
    with torch.no_grad():
        kernels = steered.predict_kernels(idr)
    arguments = Arguments((features, kernels, steered.mask.weight, steered.mask.bias), arguments.grad_output)
    packed, slopes = pack_conv3x3(conv.weight), {"output_negative_slope": NEGATIVE_SLOPE}

    def end(features: Tensor) -> Tensor:
        return F.leaky_relu(F.conv2d(features, conv.weight, conv.bias, padding=1), NEGATIVE_SLOPE, inplace=True)

    def peer(operator: Operator, transform: Transform) -> Operator:
        return transform(lambda *tensors: end(F.leaky_relu(operator(*tensors), NEGATIVE_SLOPE)))

    def ours(backend: str | None) -> Operator:
        return lambda *tensors: rda_conv3x3(*tensors, packed, conv.bias, **slopes, backend=backend)

    ways: dict[str, Operator] = {
        "composition": lambda *tensors: end(rda_conv2d(*tensors, **slopes)),
        "rda_conv2d": partial(rda_conv2d, **slopes),
        "conv3x3": lambda features, *_: conv3x3(features, packed, conv.bias, **slopes),
    }
    parts = {name: Candidate(call(way, arguments, setting.mode)) for name, way in ways.items()}
    return providers(setting, arguments, peer, ours) | parts


def upscaler(setting: Setting, features: Tensor) -> dict[str, Candidate]:
    """The providers of the collapsed upscaler, and its convolution alone, by name."""
    generator = torch.Generator(setting.device).manual_seed(0)
    outputs, channels = 3 * SCALE**2, setting.shape[1]
    like = {"generator": generator, "device": setting.device}
    weight = torch.randn(9, outputs, channels, 5, 5, **like) / (5 * channels**0.5)  # type: ignore[arg-type]
    bias = torch.randn(9, outputs, **like)  # type: ignore[arg-type]
    inner = weight[4].to(features.dtype, memory_format=MEMORY_FORMATS[setting.layout])
    ways = {
        OURS: partial(conv5x5_shuffle, features, pack_conv5x5(weight, features.dtype), bias, scale=SCALE),
        "composition": partial(conv5x5_shuffle, features, weight, bias, scale=SCALE, backend="reference"),
        "convolutions": partial(F.conv2d, features, inner, padding=2),
    }
    return {name: Candidate(torch.no_grad()(way)) for name, way in ways.items()}


def run_block(block: nn.Module, features: Tensor, idr: Tensor) -> Tensor:
    """Call a block; compiled, this serves all blocks alike."""
    return block(features, idr)


def in_a_row(blocks: Sequence[nn.Module], run: Operator = run_block) -> Operator:
    """The op as a function of features and IDR; the parameters that follow are those of the blocks already."""

    def operator(features: Tensor, idr: Tensor, *_: Tensor) -> Tensor:
        for block in blocks:
            features = run(block, features, idr)
        return features

    return operator


def convolutions(blocks: nn.ModuleList) -> nn.Sequential:
    """The floor: the 3x3 convolutions of the blocks, in a row."""
    return nn.Sequential(*(conv for block in blocks for conv in (block.conv1, block.conv2)))


def measure_setting(setting: Setting, effort: Effort) -> list[Record]:
    """Time all providers on one setting; one record per provider and way to launch."""
    fresh_start()
    blocks = random_blocks(setting)
    arguments = random_arguments(setting, blocks)
    static = blocks[0].conv1 if setting.op == HALF else convolutions(blocks)
    alone = Arguments((arguments.tensors[0], *static.parameters()), arguments.grad_output)
    floor = Candidate(call(lambda features, *_: static(features), alone, setting.mode))
    if setting.op == UPSCALER:
        return measure(setting, upscaler(setting, arguments.tensors[0]), floor="convolutions", effort=effort)
    found = half(setting, blocks[0], arguments) if setting.op == HALF else computing(setting, blocks, arguments)
    found.pop(f"{OURS}_reference", None)  # benchmarks/rda_conv.py measures it
    candidates = found | {"convolutions": floor}
    return measure(setting, candidates, floor="convolutions", effort=effort)


if __name__ == "__main__":
    main()
