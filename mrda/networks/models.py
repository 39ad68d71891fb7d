"""The published networks by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mrda.checks import SCALES
from mrda.networks.mln import MLN
from mrda.networks.mrda import MRDAStudent, MRDATeacher
from mrda.networks.registry import Network

MODELS: dict[str, Callable[[], Network]] = {
    **{f"mrda-x{scale}": partial(MRDAStudent, scale=scale) for scale in SCALES},
    **{f"mrda-teacher-x{scale}": partial(MRDATeacher, scale=scale) for scale in SCALES},
    **{f"mln-x{scale}": partial(MLN, scale=scale) for scale in SCALES},
}
"""Each call builds the network with random weights, on the default device."""
