"""`mrda evaluate`."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console

from mrda.cli.app import app
from mrda.cli.common import (
    NO_WEIGHTS,
    Weights,
    check_folder,
    check_output_file,
    print_table,
    progress,
    refuse,
    refusing,
    report,
)

if TYPE_CHECKING:
    from mrda.evaluation.paired import Pair
    from mrda.evaluation.protocols import Record
    from mrda.evaluation.samples import Condition, Method
    from mrda.images import Source

_METHODS = ("mrda_s", "mrda_t", "mrda_t3", "mln", "bicubic")


@app.command(
    epilog="Example: mrda evaluate -w weights.safetensors --data Set5 Set14 --json scores.json",
    short_help="Measure PSNR-Y and SSIM-Y on photos, beside the paper's numbers.",
)
def evaluate(
    data: Annotated[
        list[Path],
        typer.Option("--data", help="A folder of HR photos, or several: --data A B.", metavar="DIR..."),
    ],
    more: Annotated[list[Path] | None, typer.Argument(hidden=True, metavar="[DIR]...")] = None,
    weights: Weights = None,
    mln: Annotated[
        Path | None, typer.Option("--mln", help="Weights of the MLN that a teacher was trained with.", metavar="MLN")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            help="gaussian8, mrda9, dasr9, bicubic, or real: folders that hold LR and HR photos.",
        ),
    ] = "gaussian8",
    scale: Annotated[
        int | None, typer.Option("--scale", help="2, 3 or 4; that of the weights if not given, else 4.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", help="bicubic needs no weights; of weights it follows: mrda_s, mrda_t, mrda_t3 or mln."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="Adaptation steps of the MLN per photo; those of its training if not given."),
    ] = None,
    peers: Annotated[
        list[Path] | None,
        typer.Option("--peers", help="SR networks to measure too, loaded by Spandrel.", metavar="FILE..."),
    ] = None,
    noise: Annotated[
        list[float] | None,
        typer.Option(
            "--noise", help="A noise level of mrda9 or dasr9; may be repeated; all if not given.", metavar="LEVEL"
        ),
    ] = None,
    downsample: Annotated[
        str | None, typer.Option("--downsample", help="bicubic (if not given) or sfold: every SCALE-th pixel.")
    ] = None,
    border: Annotated[
        str, typer.Option("--border", help="What bicubic sees outside the photo: clamp, or mirror as in MATLAB.")
    ] = "clamp",
    variant: Annotated[
        str | None, typer.Option("--variant", help="Luma of the metrics: released, or matlab, the default of real.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the noise.")] = 0,
    limit: Annotated[
        int | None, typer.Option("--limit", help="At most that many photos of each folder.", metavar="N")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the scores here too.", metavar="FILE")] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write every photo's scores here.", metavar="FILE")
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Write the table here too.", metavar="FILE")
    ] = None,
) -> None:
    """Degrade HR photos in agreed ways, upscale them, and compare; bicubic is always beside.

    With --protocol real nothing is degraded: each folder holds LR and HR with the same file names.
    """
    folders, peer_files = _split(data, peers or [], more or [])
    _check_method(method, weights, mln, steps, peer_files)
    if limit is not None and limit < 1:
        refuse(f"--limit is {limit}, but must be at least 1")
    _check_outputs({"--json": json_file, "--csv": csv_file, "--markdown": markdown_file})
    from mrda.evaluation.paired import REAL
    from mrda.evaluation.tables import summarise, write_csv, write_json
    from mrda.evaluation.tables_markdown import markdown
    from mrda.files import write_text

    real = protocol == REAL
    with refusing():
        methods, scale, blur_size = _load(weights, mln, steps, method, peer_files, scale)
        if real:
            _check_real(blur_size, weights, noise, downsample)
            degradations, photos = None, _pairs(folders, scale)
        else:
            degradations, photos = _conditions(protocol, scale, noise), _sources(folders)
            _check_kernels(blur_size, weights, degradations)
        _check_choices(downsample, border, variant)
    options = _Options(downsample or "bicubic", border, variant or ("matlab" if real else "released"), seed)
    per_photo = (1 + len(methods)) * (1 if degradations is None else len(degradations))
    jobs = [
        _Job(folder, photo, _runner(methods, photo, degradations, scale, options))
        for folder, found in photos.items()
        for photo in found[:limit]
    ]

    records: dict[str, list[Record]] = {}
    done: dict[str, int] = dict.fromkeys(photos, 0)
    with progress("evaluating", len(jobs) * per_photo) as bar:
        for number, job in enumerate(jobs, start=1):
            measured, failure = _run(job, lambda: bar.advance(bar.task_ids[0]))
            if failure is None:
                records.setdefault(job.folder, []).extend(measured)
                done[job.folder] += 1
            else:
                report(bar, failure)
            bar.update(bar.task_ids[0], completed=number * per_photo)
    datasets = {folder: summarise(measured) for folder, measured in records.items()}
    counts = {folder: (done[folder], len(found)) for folder, found in photos.items()}
    console = Console()
    width = console.width if console.is_terminal else None
    print_table(markdown(datasets, protocol, scale, photos=counts, width=width))
    if json_file is not None:
        write_json(json_file, {"datasets": datasets})
    if csv_file is not None:
        write_csv(csv_file, records)
    if markdown_file is not None:
        write_text(markdown_file, markdown(datasets, protocol, scale, photos=counts))
    raise typer.Exit(1 if sum(done.values()) < len(jobs) else 0)


class _Options(NamedTuple):
    downsample: str
    border: str
    variant: str
    seed: int


class _Job(NamedTuple):
    """One photo, and what measures it."""

    folder: str
    photo: "Source | Pair"
    run: "Callable[[], Iterator[Record]]"


def _runner(
    methods: "dict[str, Method]",
    photo: "Source | Pair",
    degradations: "list[Condition] | None",
    scale: int,
    options: _Options,
) -> "Callable[[], Iterator[Record]]":
    from mrda.evaluation.paired import Pair, evaluate_pairs
    from mrda.evaluation.protocols import evaluate as evaluate_photos

    if isinstance(photo, Pair):
        return lambda: evaluate_pairs(methods, [photo], scale, border=options.border, variant=options.variant)
    assert degradations is not None
    return lambda: evaluate_photos(methods, [photo], degradations, scale, **options._asdict())


def _run(job: _Job, step: Callable[[], None]) -> "tuple[list[Record], str | None]":
    """Measure one photo; what prevents it is returned as a sentence, and then none of its scores count."""
    from mrda.evaluation.paired import Pair
    from mrda.inference import is_out_of_memory

    files = job.photo[1:] if isinstance(job.photo, Pair) else (job.photo,)
    measured = []
    try:
        for record in job.run():
            measured.append(record)
            step()
    except (OSError, ValueError) as error:
        named = any(str(file) in str(error) for file in files)
        return [], str(error) if named else f"{files[-1]}: {error}"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return [], f"{files[-1]}: there is not enough memory for a photo of its size"
    return measured, None


def _split(data: Sequence[Path], peers: Sequence[Path], more: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Folders and peers; what follows the first value of either option arrives in `more`."""
    files = [path for path in more if peers and not os.path.isdir(path)]
    return [*data, *(path for path in more if path not in files)], [*peers, *files]


def _check_method(
    method: str | None, weights: Path | None, mln: Path | None, steps: int | None, peers: Sequence[Path]
) -> None:
    if method not in (None, *_METHODS):
        refuse(f"--method must be one of {', '.join(_METHODS)}, not {method!r}")
    if method == "bicubic" and weights is not None:
        refuse("--method bicubic uses no weights, so -w can't go with it")
    if weights is not None:
        return
    if method not in (None, "bicubic") or (method is None and not peers):
        refuse(NO_WEIGHTS)
    for option, value in (("--mln", mln), ("--steps", steps)):
        if value is not None:
            refuse(f"{option} is {value}, but goes with the weights of a network only, so give some with -w")


def _check_outputs(files: dict[str, Path | None]) -> None:
    taken: dict[Path, str] = {}
    for option, path in files.items():
        check_output_file(option, path)
        if path is None:
            continue
        other = taken.setdefault(path.resolve(), option)
        if other != option:
            refuse(f"{option} and {other} are the same file, {path}")


def _load(
    weights: Path | None,
    mln: Path | None,
    steps: int | None,
    method: str | None,
    peer_files: Sequence[Path],
    scale: int | None,
) -> "tuple[dict[str, Method], int, int | None]":
    """The methods to measure beside bicubic, the scale, and the size of the kernels that one of them must be told."""
    from mrda.evaluation.methods_loading import load_method
    from mrda.evaluation.peers import load_peers
    from mrda.inference import default_device

    device = default_device()
    methods: dict[str, Method] = {}
    blur_size = None
    if weights is not None:
        loaded = load_method(weights, mln=mln, steps=steps, device=device)
        if method not in (None, loaded.name):
            raise ValueError(f"--method is {method}, but {weights} holds the network of {loaded.name}")
        if scale not in (None, loaded.scale):
            raise ValueError(f"--scale is {scale}, but {weights} upscales by {loaded.scale}")
        methods[loaded.name], scale, blur_size = loaded.method, loaded.scale, loaded.blur_size
    for peer in load_peers(peer_files, scale=scale, taken=_METHODS, device=device):
        methods[peer.name], scale = peer.method, peer.scale
    return methods, 4 if scale is None else scale, blur_size


def _conditions(protocol: str, scale: int, noise: Sequence[float] | None) -> "list[Condition]":
    from mrda.evaluation.paired import REAL
    from mrda.evaluation.protocols import PROTOCOLS, conditions

    if protocol not in PROTOCOLS:
        raise ValueError(f"--protocol must be one of {', '.join((*PROTOCOLS, REAL))}, not {protocol!r}")
    return conditions(protocol, scale, noise_levels=noise or None)


def _check_choices(downsample: str | None, border: str, variant: str | None) -> None:
    from mrda.degradations.classic import DOWNSAMPLES
    from mrda.degradations.resample import BORDERS
    from mrda.evaluation.metrics import VARIANTS

    for option, value, choices in (
        ("--downsample", downsample, DOWNSAMPLES),
        ("--border", border, BORDERS),
        ("--variant", variant, VARIANTS),
    ):
        if value is not None and value not in choices:
            raise ValueError(f"{option} must be {' or '.join(choices)}, not {value!r}")


def _check_real(
    blur_size: int | None, weights: Path | None, noise: Sequence[float] | None, downsample: str | None
) -> None:
    if blur_size is not None:
        raise ValueError(f"{weights} must be told the blur kernel, which nobody knows of the photos of --protocol real")
    for option, value in (("--noise", noise), ("--downsample", downsample)):
        if value:
            raise ValueError(f"{option} can't go with --protocol real, which degrades nothing")


def _check_kernels(blur_size: int | None, weights: Path | None, degradations: "Iterable[Condition]") -> None:
    """An oracle takes kernels of one size; without blur it is told a delta of that size."""
    for condition in degradations:
        size = blur_size if condition.kernel is None else condition.kernel.shape[-1]
        if blur_size not in (None, size):
            raise ValueError(
                f"{weights} must be told blur kernels of {blur_size}x{blur_size}, but those here are {size}x{size}"
            )


def _sources(data: Sequence[Path]) -> "dict[str, Sequence[Source | Pair]]":
    """The photos of each folder, by the folder's name."""
    from mrda.images import find_images

    return {name: find_images([folder]) for name, folder in _named(data).items()}


def _pairs(data: Sequence[Path], scale: int) -> "dict[str, Sequence[Source | Pair]]":
    """The LR and HR photos of each folder, by the folder's name."""
    from mrda.evaluation.paired import find_pairs

    return {name: find_pairs(folder, scale) for name, folder in _named(data).items()}


def _named(data: Sequence[Path]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for folder in data:
        check_folder(folder)
        name = folder.resolve().name
        if name in folders:
            raise ValueError(f"two --data folders are named {name}, and their scores would mix")
        folders[name] = folder
    return folders
