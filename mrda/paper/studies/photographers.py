# SPDX-License-Identifier: Apache-2.0
"""The page that names the authors of the photographs that weights were trained on."""

from __future__ import annotations

import csv
import re
import textwrap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from mrda.core.markdown import table

NEEDED = ("file", "original", "source", "author", "licence", "licence_stated_in", "changes", "remarks")
"""Columns of the list."""
_OTHERS = {
    "CC0": ("CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    "public domain": ("public domain", None),
    "BSD-3-Clause": ("BSD-3-Clause", "https://spdx.org/licenses/BSD-3-Clause.html"),
}


def page(path: Path, name: str) -> str:
    """Return the page, as Markdown.

    Args:
        path: the list, tab-separated with a header, of which `NEEDED` are read.
        name: name of the photo set in the metadata of weights.

    Raises:
        ValueError: a column is missing, or a licence is unknown.
    """
    with open(path, encoding="utf-8", newline="") as file:
        photos = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if missing := [column for column in NEEDED if not photos or column not in photos[0]]:
        raise ValueError(f"{path} must have photos, and the columns {', '.join(missing)}")
    count = Counter(_licence(photo["licence"])[0] for photo in photos)
    rows = [
        [
            f"`{photo['file']}`",
            _escaped(photo["author"]) or "not stated",
            _linked(*_licence(photo["licence"])),
            "; ".join(filter(None, map(_escaped, (photo["licence_stated_in"], photo["remarks"])))),
            _source(photo),
            _escaped(photo["changes"]),
        ]
        for photo in photos
    ]
    text = (
        f"Weights of this package whose data include `{name}` were trained on these {len(photos)} photographs. Thanks "
        "to all who made them and let others use them; none of them endorses this package. The package holds none of "
        "the photographs.",
        f"By licence, as stated where each photograph was taken from: {_listed(count)}. Before training each was "
        "changed as the last column says, saved as JPEG without its metadata, and cut, turned and degraded at random.",
    )
    return "".join(
        f"{textwrap.fill(paragraph, 120, break_on_hyphens=False)}\n\n" for paragraph in ("# Photographers", *text)
    ) + table(["Photograph", "Author", "Licence", "Stated in, remarks", "Source", "Changes"], rows, left=6)


def _licence(stated: str) -> tuple[str, str | None]:
    """Return the name of a licence, and the address of its text."""
    if stated in _OTHERS:
        return _OTHERS[stated]
    match = re.fullmatch(r"CC-(BY(?:-SA)?)-(\d\.\d)", stated)
    if match is None:
        raise ValueError(f"the licence {stated} of a photograph is unknown: add it to {__name__}")
    kind, version = match.groups()
    return f"CC {kind} {version}", f"https://creativecommons.org/licenses/{kind.lower()}/{version}/"


def _source(photo: Mapping[str, str]) -> str:
    """Return where a photograph was taken from: the place as stated, and the file in it, linked as far as possible."""
    place, original = photo["source"], photo["original"]
    text = f"{_escaped(place)}: `{original}`"
    if match := re.fullmatch(r"(github\.com/[\w.-]+/[\w.-]+) (?:@|branch )([\w.-]+)", place):
        repository, version = match.groups()
        return _linked(text, f"https://{repository}/blob/{version}/{quote(original)}")
    if match := re.match(r"github\.com/[\w.-]+/[\w.-]+", place):
        return _linked(text, f"https://{match[0].rstrip('.')}")
    if match := re.fullmatch(r"Debian package ([a-z0-9.+-]+)_\S+\.deb", place):
        return _linked(text, f"https://snapshot.debian.org/binary/{match[1]}/")
    return text


def _linked(text: str, address: str | None) -> str:
    return text if address is None else f"[{text}]({address})"


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>#])", r"\\\1", text)


def _listed(count: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(count.items(), key=lambda entry: -entry[1]))
