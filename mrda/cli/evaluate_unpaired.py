# SPDX-License-Identifier: Apache-2.0
"""`mrda evaluate --protocol unpaired`: photos without HR."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mrda.cli.common import print_table, refusing, save_outputs
from mrda.cli.evaluate_jobs import Measurement, run_jobs
from mrda.core.files import make_folder

if TYPE_CHECKING:
    from mrda.evaluation.samples import Method
    from mrda.photo.images import Source


def evaluate_unpaired_photos(
    methods: "Mapping[str, Method]",
    photos: "Mapping[str, Sequence[Source]]",
    scale: int,
    *,
    output: Path,
    niqe: Path | None,
    border: str,
    limit: int | None,
    files: Mapping[str, Path | None],
) -> bool:
    """Upscale photos into OUTPUT/DATA/METHOD/NAME.png, measure NIQE if a model is given, print and write the tables.

    Args:
        methods: methods that need LR only, by name.
        photos: LR photos by data set.
        scale: scale of all methods.
        output: the folder for the pictures.
        niqe: file of a pristine model.
        border: border of bicubic upscaling.
        limit: number of photos of each data set; None for all.
        files: files for the tables, by option: "--json", "--csv" and "--markdown".

    Returns:
        True if no photo failed and all files were written.
    """
    from mrda.core.files import write_text
    from mrda.evaluation.niqe import load_pristine
    from mrda.evaluation.tables import write_json
    from mrda.evaluation.tables_unpaired import markdown_unpaired, summarise_unpaired, write_scores_unpaired
    from mrda.evaluation.unpaired import check_pictures, evaluate_unpaired
    from mrda.photo.names import distinct_names

    with refusing():
        model = None if niqe is None else load_pristine(niqe)
        for folder, found in photos.items():
            check_pictures(found, methods, output / folder)
        make_folder(output, "output folder")
    jobs = [
        Measurement(
            folder,
            [photo],
            partial(
                evaluate_unpaired,
                methods,
                [photo],
                output / folder,
                scale,
                model=model,
                border=border,
                names={photo: name},
            ),
        )
        for folder, found in photos.items()
        for photo, name in list(zip(found, distinct_names(found), strict=True))[:limit]
    ]
    results = run_jobs(jobs, 1 + len(methods))
    datasets = {folder: summarise_unpaired(records) for folder, records in results.records.items()}
    counts = {folder: (results.done.get(folder, 0), len(found)) for folder, found in photos.items()}
    text = markdown_unpaired(datasets, photos=counts)
    print_table(text)
    saved = save_outputs(
        {
            "--json": (files["--json"], lambda path: write_json(path, {"datasets": datasets})),
            "--csv": (files["--csv"], lambda path: write_scores_unpaired(path, results.records)),
            "--markdown": (files["--markdown"], lambda path: write_text(path, text)),
        }
    )
    return saved and sum(results.done.values()) == len(jobs)
