# SPDX-License-Identifier: Apache-2.0
"""`mrda figures adaptation`, `modulation` and `compare`: Figs 9, 10 and 3-6."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrda.cli.common import NO_WEIGHTS, Weights, check_folder, progress, refuse, refusing
from mrda.paper.commands import figures as shared

if TYPE_CHECKING:
    from mrda.evaluation.samples import Condition

Photos = Annotated[list[str], typer.Argument(help="Photos, or folders of photos.", metavar="PHOTO")]


@shared.figures.command(
    cls=shared.SeveralValues,
    epilog="Example: mrda figures adaptation --mln meta=runs/a/meta/weights.safetensors --data Set5 -o adaptation.png",
    short_help="PSNR of the MLN during its adaptation, and by the number of steps (Fig. 9).",
)
def adaptation(
    data: Annotated[
        Path, typer.Option("--data", help="Folder of HR photos; its name becomes the title.", metavar="DIR")
    ],
    output: shared.Output,
    mln: Annotated[
        list[str] | None, typer.Option("--mln", help="Panel a: an MLN, or several.", metavar="NAME=FILE...")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", help="Panel a: number of adaptation steps.", metavar="N")] = 10,
    sweep: Annotated[
        list[str] | None,
        typer.Option("--sweep", help="Panel b: teachers by the steps of their training.", metavar="N=FILE..."),
    ] = None,
    sweep_mln: Annotated[
        Path | None, typer.Option("--sweep-mln", help="The MLN that is adapted for the teachers.", metavar="FILE")
    ] = None,
    students: Annotated[
        list[str] | None,
        typer.Option("--students", help="Panel b: students by the steps of their training.", metavar="N=FILE..."),
    ] = None,
    protocol: Annotated[
        str, typer.Option("--protocol", help="The degradations, as for `mrda evaluate`.", metavar="NAME")
    ] = "gaussian8",
    inner_lr: Annotated[
        str | None,
        typer.Option(
            "--inner-lr",
            help="Learning rates of the steps, the last one for all further steps (default: those in the weights).",
            metavar="RATE,...",
        ),
    ] = None,
    max_size: shared.MaxSize = 1024,
) -> None:
    """Draw PSNR-Y against the step of adaptation, and against the steps used in training."""
    if not (mln or sweep or students):
        refuse("there is nothing to draw: give --mln NAME=FILE, --sweep N=FILE or --students N=FILE")
    if bool(sweep) != (sweep_mln is not None):
        refuse("--sweep and --sweep-mln go together: teachers read the features of an MLN")
    if steps < 0:
        refuse(f"--steps is {steps}, but must be at least 0")
    with refusing():
        check_folder(data)
        named, teachers = shared.named_paths("--mln", mln), _numbered("--sweep", sweep)
        trained = _numbered("--students", students)
        rates = None if inner_lr is None else _rates(inner_lr)
    files = [*named.values(), *teachers.values(), *trained.values(), *([] if sweep_mln is None else [sweep_mln])]
    sources = shared.check_files(output, [data], files)
    from mrda.evaluation.protocols import conditions
    from mrda.paper.figures.adaptation import BASELINE, adaptation_scores, load_curves, load_sweep, save_adaptation
    from mrda.paper.figures.photos import smallest_side
    from mrda.upscale.upscaler import default_device

    with refusing():
        device = default_device()
        if BASELINE in named:
            raise ValueError(f"--mln {BASELINE!r} is the name of the dashed line, but must be another")
        curves = load_curves(named, steps=steps, inner_lr=rates, device=device)
        swept = load_sweep(teachers, trained, sweep_mln, inner_lr=rates, device=device)
        scale = shared.one_scale(
            [*(curve.network.scale for curve in curves.values()), *(p.scale for p in swept.values())]
        )
        assert scale is not None  # there is something to draw
        degradations = conditions(protocol, scale)
        remarks = shared.check_photos(sources, smallest_side(degradations, scale), max_size)

    total = len(sources) * len(degradations) * (1 + len(curves) * (steps + 1) + len(swept))
    scores = []
    with progress("adapting", total) as task, shared.working(remarks):
        for score in adaptation_scores(curves, swept, sources, degradations, scale, largest=max_size):
            scores.append(score)
            task.advance()
        centres = f", centres of at most {max_size} pixels" if remarks else ""
        title = f"{data.resolve().name} ({len(sources)} photos), {protocol}, x{scale}{centres}"
        save_adaptation(scores, output, title=title)
    shared.say_written(output)


@shared.figures.command(
    epilog="Example: mrda figures modulation -w weights.safetensors photo.png --sigma 1.6 -o modulation.png",
    short_help="The modulation map (Fig. 10).",
)
def modulation(
    photos: Photos,
    output: shared.Output,
    weights: Weights = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            "--sigma",
            help="Take the photos as HR, blur them by this many pixels and shrink them (default: the photos are LR).",
            metavar="X",
        ),
    ] = None,
    max_size: shared.MaxSize = 1024,
) -> None:
    """Draw LR, SR and the mean of all masks; the CSV has the map's correlation with texture."""
    if weights is None:
        refuse(NO_WEIGHTS)
    sources = shared.check_files(output, photos, [weights])
    from mrda.evaluation.protocols import isotropic_conditions
    from mrda.evaluation.samples import make_sample
    from mrda.paper.figures.modulation import modulate, save_modulation, with_masks
    from mrda.paper.figures.photos import read_centre, smallest_side
    from mrda.upscale.upscaler import Upscaler

    with refusing():
        network = with_masks(Upscaler.from_pretrained(weights).network)
        scale = network.scale
        degraded = [] if sigma is None else isotropic_conditions([sigma])
        smallest = smallest_side(degraded, scale) if degraded else 1
        multiple, grid = (scale, 1) if degraded else (1, scale)
        remarks = shared.check_photos(sources, smallest, max_size, grid)

    rows = []
    with progress("upscaling", len(sources)) as task, shared.working(remarks):
        for source in sources:
            photo = read_centre(source, multiple=multiple, largest=max_size // grid)
            lr, hr = photo.image, None
            if degraded:
                lr, _, hr, *_ = make_sample(photo.image, degraded[0], scale, image=photo.name)
            rows.append(modulate(network, lr, name=photo.name, hr=hr, sigma=sigma, cropped=photo.cropped))
            task.advance()
        save_modulation(rows, output)
    shared.say_written(output)


@shared.figures.command(
    epilog="Example: mrda figures compare -w weights.safetensors photo.png --sigma 2.4 -o compare.png",
    short_help="A detail restored by several methods (Figs 3-6).",
)
def compare(
    photos: Photos,
    output: shared.Output,
    weights: Weights = None,
    peers: Annotated[
        list[Path] | None,
        typer.Option("--peers", help="Another network, which Spandrel loads; may be repeated.", metavar="FILE"),
    ] = None,
    sigma: Annotated[
        float | None, typer.Option("--sigma", help="Isotropic blur: its standard deviation in HR pixels.", metavar="X")
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            "--kernel",
            help="Anisotropic blur: standard deviations in HR pixels, and angle in degrees.",
            metavar="L1,L2,THETA",
        ),
    ] = None,
    noise: Annotated[
        float, typer.Option("--noise", help="Standard deviation of the noise, from 0 to 255.", metavar="X")
    ] = 0.0,
    crop: Annotated[
        str | None,
        typer.Option(
            "--crop", help="The detail, in pixels of the photos (default: the most structured one).", metavar="X,Y,SIZE"
        ),
    ] = None,
    max_size: shared.MaxSize = 1024,
) -> None:
    """Degrade HR photos and draw a detail by bicubic interpolation, by peers, by MRDA_S, and of HR."""
    if weights is None:
        refuse(NO_WEIGHTS)
    if sigma is not None and kernel is not None:
        refuse("--sigma and --kernel are two blurs, but there can only be one")
    sources = shared.check_files(output, photos, [weights, *(peers or ())])
    from mrda.evaluation.methods import blind_method
    from mrda.paper.figures.details import BICUBIC, OURS, compare_methods, save_details
    from mrda.paper.figures.photos import read_centre, smallest_side
    from mrda.upscale.upscaler import Upscaler, default_device

    with refusing():
        condition = _condition(sigma, kernel, noise)
        square = None if crop is None else _square(crop)
        upscaler = Upscaler.from_pretrained(weights)
        scale = upscaler.scale
        remarks = shared.check_photos(sources, smallest_side([condition], scale), max_size)
        methods = {}
        if peers:
            from mrda.evaluation.peers import load_peers

            loaded = load_peers(peers, scale=scale, taken=(BICUBIC, OURS), device=default_device())
            methods = {peer.name: peer.method for peer in loaded}
        methods[OURS] = blind_method(upscaler)

    details = []
    with progress("comparing", len(sources)) as task, shared.working(remarks):
        for source in sources:
            photo = read_centre(source, multiple=scale, largest=max_size)
            details.append(compare_methods(methods, photo, condition, scale, crop=square))
            task.advance()
        save_details(details, output)
    shared.say_written(output)


def _numbered(option: str, values: Sequence[str] | None) -> dict[int, Path]:
    """N=FILE by number."""
    numbered: dict[int, Path] = {}
    for name, path in shared.named_paths(option, values).items():
        if not (name.isascii() and name.isdigit()):
            raise ValueError(f"{option} is {name}={path}, but must be a number of steps and a file, N=FILE")
        if int(name) in numbered:
            raise ValueError(f"{option} {int(name)} is given twice, but numbers must differ")
        numbered[int(name)] = path
    return numbered


def _rates(value: str) -> list[float]:
    what = "positive numbers with commas between"
    rates = shared.parse_numbers("--inner-lr", value, what)
    if min(rates) <= 0:
        raise ValueError(f"--inner-lr is {value!r}, but must be {what}")
    return rates


def _square(value: str) -> tuple[int, int, int]:
    what = "three whole numbers X,Y,SIZE, SIZE at least 1"
    numbers = shared.parse_numbers("--crop", value, what)
    if len(numbers) != 3 or any(number != int(number) or number < 0 for number in numbers) or numbers[2] < 1:
        raise ValueError(f"--crop is {value!r}, but must be {what}")
    x, y, size = map(int, numbers)
    return x, y, size


def _condition(sigma: float | None, kernel: str | None, noise: float) -> "Condition":
    from mrda.evaluation.protocols import BICUBIC, anisotropic_condition, isotropic_conditions
    from mrda.evaluation.samples import Condition

    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"--noise is {noise}, but must be finite and at least 0")
    if sigma is not None:
        return isotropic_conditions([sigma])[0]._replace(noise_level=noise)
    if kernel is None:
        return Condition(BICUBIC, None, noise)
    what = "three numbers L1,L2,THETA, the widths at least 0"
    numbers = shared.parse_numbers("--kernel", kernel, what)
    if len(numbers) != 3 or min(numbers[:2]) < 0:
        raise ValueError(f"--kernel is {kernel!r}, but must be {what}")
    l1, l2, theta = numbers
    return anisotropic_condition(f"l1={l1:g} l2={l2:g} theta={theta:g}", (l1, l2, theta), noise)
