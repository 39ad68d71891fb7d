# SPDX-License-Identifier: Apache-2.0
"""`mrda figures tsne` and `mrda figures kernels`: degradation representations in the plane (Figs 7 and 8)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrda.cli.common import check_folder, progress, refuse, refusing
from mrda.paper.commands import figures as shared

if TYPE_CHECKING:
    from mrda.evaluation.samples import Condition
    from mrda.paper.figures.tsne import Representation
    from mrda.photo.images import Source

Networks = Annotated[
    list[str] | None,
    typer.Option("--weights", help="Students or teachers; one panel each.", metavar="NAME=FILE..."),
]
Mln = Annotated[Path | None, typer.Option("--mln", help="The MLN that is adapted for teachers.", metavar="FILE")]
Dasr = Annotated[
    Path | None, typer.Option("--dasr", help="DASR's checkpoint, for a panel of its encoder.", metavar="FILE")
]
Data = Annotated[Path, typer.Option("--data", help="Folder of HR photos; its name becomes the title.", metavar="DIR")]
Limit = Annotated[
    int | None, typer.Option("--limit", min=2, help="Use at most N photos, the first by name.", metavar="N")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the noise and of t-SNE.", metavar="SEED")]


@shared.figures.command(
    cls=shared.SeveralValues,
    epilog="Example: mrda figures tsne --weights T1=t1.safetensors S3=s3.safetensors --data B100 -o tsne.png",
    short_help="Representations of isotropic blurs in the plane (Fig. 7).",
)
def tsne(
    data: Data,
    output: shared.Output,
    weights: Networks = None,
    mln: Mln = None,
    dasr: Dasr = None,
    sigmas: Annotated[
        str, typer.Option("--sigmas", help="The blurs: standard deviations in HR pixels.", metavar="SIGMA,...")
    ] = "0.8,1.6,2.4,3.2",
    limit: Limit = None,
    seed: Seed = 0,
    max_size: shared.MaxSize = 1024,
) -> None:
    """Draw the raw IDRs of all photos under each blur, by t-SNE; a panel for each network."""
    photos = _photos(data, output, weights, dasr, limit)
    from mrda.evaluation.protocols import isotropic_conditions

    with refusing():
        widths = _different("--sigmas", sigmas)
        rows = {"blur": isotropic_conditions(widths)}
    _draw(rows, data, photos, output, weights, mln, dasr, seed, max_size)


@shared.figures.command(
    cls=shared.SeveralValues,
    epilog="Example: mrda figures kernels --weights T1=t1.safetensors S3=s3.safetensors --data B100 -o kernels.png",
    short_help="Representations of anisotropic blurs, and of noise, in the plane (Fig. 8).",
)
def kernels(
    data: Data,
    output: shared.Output,
    weights: Networks = None,
    mln: Mln = None,
    dasr: Dasr = None,
    noise: Annotated[
        float, typer.Option("--noise", min=0, help="Upper row: noise added to the blurs, from 0 to 255.", metavar="X")
    ] = 10.0,
    levels: Annotated[
        str, typer.Option("--levels", help="Lower row: noise levels with one blur.", metavar="LEVEL,...")
    ] = "0,5,10,20",
    limit: Limit = None,
    seed: Seed = 0,
    max_size: shared.MaxSize = 1024,
) -> None:
    """Draw raw IDRs under the different kernels of Table III at one noise, and under noises at one kernel."""
    photos = _photos(data, output, weights, dasr, limit)
    from mrda.evaluation.protocols import NINE_KERNELS, anisotropic_condition

    with refusing():
        numbers = _different("--levels", levels)
        different = list(dict.fromkeys(NINE_KERNELS["mrda9"]))  # the list has one of them twice
        rows = {
            f"kernel (l1, l2, angle), noise {noise:g}": [
                anisotropic_condition(_kernel_name(kernel), kernel, noise) for kernel in different
            ],
            f"noise, kernel {_kernel_name(different[1])}": [
                anisotropic_condition(f"noise {level:g}", different[1], level) for level in numbers
            ],
        }
    _draw(rows, data, photos, output, weights, mln, dasr, seed, max_size)


def _different(option: str, value: str) -> list[float]:
    """Two numbers at least, of which none is there twice."""
    numbers = shared.parse_numbers(option, value, "numbers from 0 up with commas between")
    if len(set(numbers)) < max(2, len(numbers)) or min(numbers) < 0:
        raise ValueError(f"{option} is {value!r}, but must be at least two different numbers, none negative")
    return numbers


def _kernel_name(kernel: tuple[float, float, float]) -> str:
    l1, l2, degrees = kernel
    return f"{l1:g}, {l2:g}, {degrees:g}\N{DEGREE SIGN}"


def _photos(
    data: Path,
    output: Path,
    weights: Sequence[str] | None,
    dasr: Path | None,
    limit: int | None,
) -> "list[Source]":
    """Find the photos; refuse options that name no files, before torch is imported."""
    if not weights and dasr is None:
        refuse("there is nothing to draw: give --weights NAME=FILE or --dasr FILE")
    with refusing():
        check_folder(data)
        files = list(shared.named_paths("--weights", weights).values())
    return shared.check_files(output, [data], files)[:limit]


def _draw(
    rows: "dict[str, list[Condition]]",
    data: Path,
    photos: "Sequence[Source]",
    output: Path,
    weights: Sequence[str] | None,
    mln: Path | None,
    dasr: Path | None,
    seed: int,
    max_size: int,
) -> None:
    """Represent all photos under the degradations of each row, and draw a panel for each network."""
    from mrda.paper.figures.photos import smallest_side
    from mrda.paper.figures.tsne import (
        PERPLEXITY,
        embed,
        perplexity_of,
        representations,
        require_sklearn,
        save_tsne,
    )

    try:
        require_sklearn()
    except ModuleNotFoundError as error:
        refuse(str(error))
    with refusing():
        networks = _load(weights, mln, dasr)
        scale = shared.one_scale(network.scale for network in networks.values() if network.scale is not None) or 4
        if len(photos) < 2:
            raise ValueError(f"--data {data} has {len(photos)} photo, but at least two are required")
        everything = [condition for conditions in rows.values() for condition in conditions]
        remarks = shared.check_photos(photos, smallest_side(everything, scale), max_size)
    for points in sorted({len(photos) * len(conditions) for conditions in rows.values()}):
        if perplexity_of(points) < PERPLEXITY:
            remarks.append(f"{points} points are few: the perplexity is {perplexity_of(points):g}, not {PERPLEXITY:g}")

    drawn = []
    with (
        progress("representing", len(photos) * len(everything) + len(networks) * len(rows)) as task,
        shared.working(remarks),
    ):
        for row, conditions in rows.items():
            found = []
            represent = [network.represent for network in networks.values()]
            for each in representations(represent, photos, conditions, scale, seed=seed, largest=max_size):
                found.append(each)
                task.advance()
            names, labels, vectors = zip(*found, strict=True)
            panels = []
            for place, name in enumerate(networks):
                own = [several[place] for several in vectors]
                panels.append(embed(name, row, own, names, labels, [c.name for c in conditions], seed=seed))
                task.advance()
            drawn.append(panels)
        save_tsne(drawn, output, title=f"{data.resolve().name} ({len(photos)} photos), x{scale}")
    shared.say_written(output)


def _load(weights: Sequence[str] | None, mln: Path | None, dasr: Path | None) -> "dict[str, Representation]":
    from mrda.paper.figures.dasr import load_dasr_encoder
    from mrda.paper.figures.tsne import Representation, load_representation
    from mrda.upscale.upscaler import default_device

    device = default_device()
    networks = {
        name: load_representation(path, mln, device=device)
        for name, path in shared.named_paths("--weights", weights).items()
    }
    if mln is not None and not any(network.adapts for network in networks.values()):
        raise ValueError(f"--mln is {mln}, but only teachers use an MLN, and none of --weights is a teacher")
    if dasr is not None:
        if "DASR" in networks:
            raise ValueError("--weights DASR is the name of the panel of --dasr, but must be another")
        encoder = load_dasr_encoder(dasr).to(device)
        networks["DASR"] = Representation(None, lambda sample: encoder(sample.lr.to(device))[0].cpu())
    return networks
