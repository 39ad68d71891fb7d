"""`mrda data prepare`, `mrda data download`, `mrda data list`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mrda.cli.app import app
from mrda.cli.common import print_table, refuse, report
from mrda.core.progress import progress_bar

if TYPE_CHECKING:
    from mrda.data.datasets import Archive, Dataset
    from mrda.photo.images import Source

commands = typer.Typer(
    help="Get photos, and make a cache of those that are too many for the memory.", no_args_is_help=True
)
app.add_typer(commands, name="data", short_help="Get photos, and prepare them for training.")


@commands.command(
    epilog="Example: mrda data prepare photos/DIV2K_train_HR photos/Flickr2K -o df2k --min-size 256",
    short_help="Make a patch cache from photos.",
)
def prepare(
    sources: Annotated[list[str], typer.Argument(help="Photos, or folders of photos.", metavar="SOURCE...")],
    cache: Annotated[Path, typer.Option("-o", "--output", help="The cache: a folder to make.", metavar="CACHE")],
    size: Annotated[
        int, typer.Option("--size", help="Largest side of a tile in pixels; more than the photos' keeps these whole.")
    ] = 480,
    overlap: Annotated[
        int | None, typer.Option("--overlap", help="Pixels that neighbouring tiles share; half of SIZE if not given.")
    ] = None,
    min_size: Annotated[
        int, typer.Option("--min-size", help="Leave photos out that have a smaller side than this.")
    ] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the cache that is there.")] = False,
) -> None:
    """Check photos, drop duplicates, and cut the rest into overlapping tiles that training reads from the disk.

    Train with --set data.sources=[CACHE] then. The cache appears complete or not at all. Files that can't be read are
    listed, the others done, and the exit code is 1.
    """
    from mrda.data.prepare import prepare as make_cache

    with progress_bar(Console(stderr=True)) as bar:

        def track(photos: "Iterable[Source]", total: int) -> "Iterator[Source]":
            task = bar.add_task("preparing", total=total)
            for photo in photos:
                yield photo
                bar.advance(task)

        try:
            result = make_cache(
                sources, cache, size=size, overlap=overlap, min_size=min_size, overwrite=overwrite, track=track
            )
        except ValueError as error:
            refuse(str(error))
        except OSError as error:
            report(bar, f"cannot write {cache}: {error.strerror or error}")
            raise typer.Exit(1) from None
        for failure in result.failures:
            report(bar, failure)
        for reason in result.left_out:
            report(bar, f"left out: {reason}")
    counts = result.counts
    typer.echo(f"{cache}: {counts.photos:,} photos in {counts.tiles:,} tiles, {_bytes(counts.bytes)}")
    raise typer.Exit(1 if result.failures else 0)


@commands.command(
    epilog="Example: mrda data download DIV2K_train_HR Flickr2K -o photos",
    short_help="Download photo sets.",
)
def download(
    names: Annotated[list[str], typer.Argument(help="Names of sets, see mrda data list.", metavar="NAME...")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to put them into.", metavar="DIR")],
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Don't delete the archives when they are unpacked.")
    ] = False,
) -> None:
    """Download photo sets into DIR/NAME, checked by their published checksums.

    A download that breaks off goes on the next time. The photos belong to their owners: see the pages that
    mrda data list shows for the terms.
    """
    from mrda.data.download import download as get
    from mrda.data.fetch import DownloadError

    wanted = _datasets(names)
    done = []
    with _download_bar() as bar:
        show = _Show(bar)
        for number, dataset in enumerate(wanted, start=1):
            later = (
                wanted if keep_archives else [other for other in wanted[number:] if not (output / other.name).exists()]
            )
            keep = {archive.url for other in later for archive in other.archives}
            try:
                folder = get(dataset, output, progress=show, tell=lambda sentence: report(bar, sentence), keep=keep)
            except DownloadError as error:
                report(bar, str(error))
            except OSError as error:
                report(bar, f"cannot write {error.filename or output}: {error.strerror or error}")
            else:
                done.append(f"{dataset.name}: {folder}")
    for line in done:
        typer.echo(line)
    raise typer.Exit(1 if len(done) < len(wanted) else 0)


@commands.command("list", short_help="List the photo sets that can be downloaded.")
def list_sets() -> None:
    """List the photo sets that `mrda data download` knows, and where they come from."""
    from mrda.data.datasets import DATASETS

    lines = ["| name | for | photos | download | checked by | from | terms |", "|---|---|---:|---:|---|---|---|"]
    for dataset in DATASETS.values():
        about = f"| {dataset.name} | {dataset.use} | {dataset.pictures:,} |"
        if not dataset.archives:
            lines.append(f"{about} | | on application to its owners | {dataset.home} |")
        for archive in dataset.archives:
            size = "" if archive.size is None else _bytes(archive.size)
            lines.append(f"{about} {size} | {_checks(archive)} | {archive.url} | {dataset.home} |")
            about = "| or | | |"
    print_table("\n".join(lines) + "\n")


def _datasets(names: list[str]) -> "list[Dataset]":
    """The sets of these names, whatever their case, each once."""
    from mrda.data.datasets import DATASETS

    known = {name.lower(): dataset for name, dataset in DATASETS.items()}
    wanted = {}
    for name in names:
        dataset = known.get(name.lower())
        if dataset is None:
            refuse(f"there is no photo set {name!r}, only {', '.join(DATASETS)}")
        if not dataset.archives:
            refuse(f"{dataset.name} can't be downloaded without asking its owners: see {dataset.home}")
        wanted[dataset.name] = dataset
    return list(wanted.values())


def _checks(archive: "Archive") -> str:
    kinds = [kind for kind, value in (("SHA-256", archive.sha256), ("MD5", archive.md5)) if value is not None]
    return ", ".join(kinds) or "nothing: no checksum is published"


def _bytes(count: int) -> str:
    """Such as 3.5 GB, in decimal units."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def _download_bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class _Show:
    """Shows what is being done as the one task of a bar; see `mrda.data.fetch.Progress`."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.what = ""
        self.task: TaskID | None = None

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if self.task is None or what != self.what:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.what, self.task = what, self.bar.add_task(what)
        self.bar.update(self.task, completed=done, total=total)
