# SPDX-License-Identifier: Apache-2.0
"""The second-order degradation of real photos."""

from __future__ import annotations

from dataclasses import dataclass

from mrda.config.base import Count
from mrda.options.real import RealOptions


@dataclass(frozen=True)
class RealConfig(RealOptions):
    """The second-order degradation (`degradation.type: real`).

    Real-ESRGAN's flat names are read too: `jpeg_range` is `first.jpeg_range`, `jpeg_range2` is `second.jpeg_range`, and
    so on.
    """

    queue_size: Count = 0
    """With `degradation.per: image`: number of pairs in a pool from which batches are mixed, a multiple of the batch;
    Real-ESRGAN's training has 180. 0: no pool."""
