"""Time one RDA block (op "rdab") and the 27 of the published trunk in a row (op "trunk") against other ways.

    python benchmarks/rda_block.py --device cpu --quick --json benchmarks/results/rda_block_cpu.json

Features (B, C, H, W) and the compressed IDR (B, C) go in; the blocks predict their kernels from it. With the backward,
there are gradients of both and of all parameters. Providers are those of benchmarks/rda_conv.py: each peer is the same
block with another way to compute its two RDA convs. A compiled peer is one compiled block, called 27 times by the
trunk: to compile the trunk as a whole takes 27 times as long. The floor is "convolutions", the blocks' 3x3
convolutions and nothing else: their share is the libraries' (cuDNN, oneDNN) and the same for everyone.

Besides the time a record has `peak_bytes`, the most memory that a call holds at a time on top of its inputs and the
parameters; `benchmarks.memory.peak_bytes` says how it is measured.
"""

import copy
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.rda_block` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else torch's profiler writes to the terminal; read by torch's import

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import commands, tables
from benchmarks.measuring import Arguments, Candidate, Effort, fresh_start, measure, mode_context, set_count
from benchmarks.memory import peak_bytes
from benchmarks.providers import Operator, Provider, Transform, providers
from benchmarks.records import MEMORY_FORMATS, MODES, OURS, Record, Setting, is_measured
from mrda.networks.layers import NEGATIVE_SLOPE
from mrda.networks.rdan import RDAB, RDAConv

BLOCKS = {"rdab": 1, "trunk": 27}
KERNEL_SIZE = 3
SHAPES = ((1, 64, 180, 320), (16, 64, 64, 64))
PARAMETERS = ("{}.kernel.0.weight", "{}.kernel.2.weight", "{}.mask.weight", "{}.mask.bias")  # of an RDA conv
MIN_ROUNDS = 4  # of what takes seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Time one RDA block and a trunk of 27 against the released network's way, torch.compile, and convolutions."""
    command = commands.comparison_parser(
        __doc__, quick="one shape in float32, channels_last; of the trunk the forward only"
    )
    options = command.parse_args(arguments)
    records = commands.run_comparison(command, options, settings(options.device, options.quick), measure_setting)
    print(tables.details(records).text())
    print(tables.summary(records).text())
    print(*tables.notes(records), sep="\n")
    commands.end(records)


def settings(device: str, quick: bool) -> list[Setting]:
    """Everything to measure, in order: what convolutions are fastest in comes first."""
    if quick:
        kinds = (("rdab", "forward"), ("rdab", "forward_backward"), ("trunk", "forward"))
        return [Setting(device, torch.float32, "nhwc", SHAPES[0], mode, op) for op, mode in kinds]
    return [
        Setting(device, dtype, layout, shape, mode, op)
        for layout in ("nhwc", "nchw")
        for dtype in (torch.bfloat16, torch.float32)
        for shape in SHAPES
        for mode in MODES
        for op in BLOCKS
    ]


def random_blocks(setting: Setting) -> nn.ModuleList:
    """Blocks as `mrda.networks` initialises them, the same ones for every dtype and layout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = nn.ModuleList(RDAB(setting.shape[1], kernel_size=KERNEL_SIZE) for _ in range(BLOCKS[setting.op]))
    blocks.requires_grad_(setting.mode == "forward_backward")
    return blocks.to(setting.device, setting.dtype).to(memory_format=MEMORY_FORMATS[setting.layout])


def random_arguments(setting: Setting, blocks: nn.ModuleList, seed: int = 0) -> Arguments:
    """Draw features and IDR; the parameters of the blocks follow them."""
    generator = torch.Generator(setting.device).manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=setting.device).to(setting.dtype)

    features, grad_output = (
        draw(*setting.shape).contiguous(memory_format=MEMORY_FORMATS[setting.layout]) for _ in range(2)
    )
    needs_grad = setting.mode == "forward_backward"
    inputs = [t.requires_grad_(needs_grad) for t in (features, draw(*setting.shape[:2]))]
    return Arguments((*inputs, *blocks.parameters()), grad_output)


def computing(setting: Setting, blocks: nn.ModuleList) -> dict[str, Provider]:
    """The providers of the whole op, by name."""

    def peer(conv: Operator, transform: Transform) -> Operator:
        return in_a_row(transform(partial(block_of, conv)), blocks)

    found = providers(setting, peer, ours=partial(on_backend, blocks))
    found.pop(f"{OURS}_reference", None)  # measured for the choice of a backend, which benchmarks/rda_conv.py serves
    return found


def in_a_row(block: Operator, blocks: nn.ModuleList) -> Operator:
    """The op from one block as a function of features, IDR and the block's parameters."""
    parameters = [ordered_parameters(each) for each in blocks]

    def operator(features: Tensor, idr: Tensor, *_: Tensor) -> Tensor:
        for each in parameters:
            features = block(features, idr, *each)
        return features

    return operator


def ordered_parameters(block: nn.Module) -> list[Tensor]:
    """The parameters of a block as `block_of` takes them."""
    names = [
        name
        for half in "12"
        for name in (*(p.format(f"rda_conv{half}") for p in PARAMETERS), f"conv{half}.weight", f"conv{half}.bias")
    ]
    return [block.get_parameter(name) for name in names]


def block_of(conv: Operator, features: Tensor, idr: Tensor, *parameters: Tensor) -> Tensor:
    """What `mrda.networks.rdan.RDAB` computes, with `conv` for the RDA conv."""
    out = F.leaky_relu(half_of(conv, features, idr, *parameters[:6]), NEGATIVE_SLOPE)
    return half_of(conv, out, idr, *parameters[6:]) + features


def half_of(
    conv: Operator,
    features: Tensor,
    idr: Tensor,
    squeeze: Tensor,
    expand: Tensor,
    mask_weight: Tensor,
    mask_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
) -> Tensor:
    """An RDA conv with the kernels it predicts, LeakyReLU, and a 3x3 convolution."""
    kernels = F.linear(F.leaky_relu(F.linear(idr, squeeze), NEGATIVE_SLOPE), expand)
    kernels = kernels.reshape(*idr.shape, KERNEL_SIZE, KERNEL_SIZE)
    out = F.leaky_relu(conv(features, kernels, mask_weight, mask_bias), NEGATIVE_SLOPE)
    return F.conv2d(out, weight, bias, padding=1)


def on_backend(blocks: nn.ModuleList, backend: str | None) -> Operator:
    """The blocks of `mrda.networks` themselves, with the same parameters, on a backend."""
    shared = copy.deepcopy(blocks, memo={id(p): p for p in blocks.parameters()})
    for module in shared.modules():
        if isinstance(module, RDAConv):
            module.backend = backend

    def operator(features: Tensor, idr: Tensor, *_: Tensor) -> Tensor:
        for block in shared:
            features = block(features, idr)
        return features

    return operator


def convolutions(blocks: nn.ModuleList) -> Callable[..., Tensor]:
    """The floor: the 3x3 convolutions of the blocks, in a row."""
    convs = [conv for block in blocks for conv in (block.conv1, block.conv2)]

    def operator(features: Tensor, *_: Tensor) -> Tensor:
        for conv in convs:
            features = conv(features)
        return features

    return operator


def measure_setting(setting: Setting, effort: Effort) -> list[Record]:
    """Time all providers on one setting; one record per provider and way to launch."""
    fresh_start()
    blocks = random_blocks(setting)
    sets = [random_arguments(setting, blocks, seed) for seed in range(set_count(setting))]
    candidates = {
        name: Candidate.of(provider, sets, setting.mode) for name, provider in computing(setting, blocks).items()
    }
    static = [p for name, p in blocks.named_parameters() if ".conv" in name]
    floor = Provider(convolutions(blocks))
    own_sets = [Arguments((each.tensors[0], *static), each.grad_output) for each in sets]
    candidates["convolutions"] = Candidate.of(floor, own_sets, setting.mode)

    if setting.op == "trunk":
        effort = replace(effort, min_rounds=MIN_ROUNDS)
    records = measure(setting, candidates, floor="convolutions", effort=effort)
    with mode_context(setting.mode):
        for record in records:
            if record["launch"] == "eager" and is_measured(record):
                record["peak_bytes"] = peak_bytes(candidates[record["provider"]].calls[0], setting.device)
    return records


if __name__ == "__main__":
    main()
