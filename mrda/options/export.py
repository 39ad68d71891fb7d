# SPDX-License-Identifier: Apache-2.0
"""The size that exported graphs are fixed to."""

from __future__ import annotations

import re

LARGEST = 2**22
"""LR pixels of the largest graph of a fixed size, that of 2048 x 2048."""


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width that were given as HEIGHTxWIDTH, such as 192x256.

    Raises:
        ValueError: The text has another form, or the size is not allowed, see :func:`check_size`.
    """
    found = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)
    if found is None:
        raise ValueError(f"size is {text}, but must be HEIGHTxWIDTH in pixels, such as 192x256")
    height, width = map(int, found.groups())
    check_size(height, width)
    return height, width


def check_size(height: int, width: int) -> None:
    """Raise ValueError unless graphs can be fixed to LR of a height and width."""
    if height < 1 or width < 1 or height * width > LARGEST:
        raise ValueError(
            f"size is {height}x{width}, but must have 1 to {LARGEST:,} pixels: cut larger images into tiles of a "
            "smaller size"
        )
