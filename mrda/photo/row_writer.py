# SPDX-License-Identifier: Apache-2.0
"""Base of the writers of images whose rows arrive one after the other."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt


class RowWriter:
    """Counts the rows of one image as they arrive; a context that closes it unless there was an error.

    Args:
        height: height in pixels.
    """

    def __init__(self, height: int) -> None:
        self.height, self.rows = height, 0

    def write(self, rows: npt.NDArray[np.generic]) -> None:
        """Write further rows (n, width, channels), or (n, width) of gray."""
        self.rows += len(rows)
        self._write(rows)

    def close(self) -> None:
        """Write the rest.

        Raises:
            ValueError: there were more or fewer rows than the image is high.
        """
        if self.rows != self.height:
            raise ValueError(f"the image has {self.height} rows, but {self.rows} were written")
        self._finish()

    def _write(self, rows: npt.NDArray[np.generic]) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        """Write what follows the last row."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
