# SPDX-License-Identifier: Apache-2.0
"""Names of photos for tables and files, which tell them apart on every file system."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mrda.photo.images import SKIMAGE_PREFIX, Source, source_name


def folded(name: str) -> str:
    """Return a name's form that is the same for all names that some file system takes for one.

    Such names differ in case or in Unicode normalisation alone.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def suffix_of(source: Source) -> str:
    """Return the suffix of a photo's file with its dot, "" for a photograph of scikit-image."""
    return "" if str(source).startswith(SKIMAGE_PREFIX) else Path(source).suffix


def distinct_names(sources: Sequence[Source], *, joint: str = ".") -> list[str]:
    """Name photos as `source_name` does, but keep the suffixes of those that would have one name.

    Args:
        sources: the photos.
        joint: put between name and suffix, in place of its dot.

    Returns:
        Names of which no two are the same, even after `folded`; a number is added if suffixes do not tell them apart.
    """
    stems = [source_name(source) for source in sources]
    counts = Counter(map(folded, stems))
    taken = {folded(stem) for stem in stems if counts[folded(stem)] == 1}
    names = []
    for source, stem in zip(sources, stems, strict=True):
        name = stem
        if counts[folded(stem)] > 1:
            whole = joint.join(filter(None, (stem, suffix_of(source).removeprefix("."))))
            name, number = whole, 2
            while folded(name) in taken:
                name, number = f"{whole}_{number}", number + 1
            taken.add(folded(name))
        names.append(name)
    return names
