# SPDX-License-Identifier: Apache-2.0
"""Reading photos from object stores, and writing results there, through copies on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mrda.photo.files import Photo, write_photo
from mrda.photo.images import ImageArray, ImageError
from mrda.photo.names import suffix_of
from mrda.upscale.batch import Files
from mrda.upscale.jobs import Job
from mrda.upscale.stores import connect, is_stored, without_query


class StoredFiles(Files):
    """Reads photos and writes results that may be in object stores, through copies on this machine.

    Args:
        places: URIs below which photos are.
        output: URI of the output folder, if it is in a store.
    """

    def __init__(self, places: Iterable[str], output: str | None) -> None:
        self._places = {without_query(place): place for place in places}
        self._output = output

    def read(self, job: Job, max_pixels: int) -> Photo:
        """See `Files`."""
        if not is_stored(job.source):
            return super().read(job, max_pixels)
        source = str(job.source)
        place = max((place for place in self._places if f"{source}/".startswith(f"{place}/")), key=len)
        content = connect(self._places[place]).read(source[len(place) + 1 :])
        with TemporaryDirectory(prefix="mrda-") as folder:
            copy = Path(folder, "photo" + suffix_of(source)[:16])
            copy.write_bytes(content)
            try:
                return super().read(replace(job, source=copy), max_pixels)
            except ImageError as error:
                raise ImageError(str(error).replace(str(copy), source)) from error

    def write(
        self, job: Job, bands: Iterable[ImageArray], height: int, photo: Photo, *, quality: int, lossless: bool | None
    ) -> tuple[str, ...]:
        """See `Files`."""
        if self._output is None:
            return super().write(job, bands, height, photo, quality=quality, lossless=lossless)
        with TemporaryDirectory(prefix="mrda-") as folder:
            copy = Path(folder, f"result{job.name.suffix}")
            notices = write_photo(copy, bands, height, photo, format=job.format, quality=quality, lossless=lossless)
            connect(self._output).write(job.name.as_posix(), copy.read_bytes())
        return notices

    def exists(self, job: Job) -> bool:
        """Check that a job's result exists; if that can't be known, it does not."""
        if self._output is None:
            return os.path.isfile(job.target)
        with suppress(OSError):
            return connect(self._output).is_file(job.name.as_posix())
        return False
