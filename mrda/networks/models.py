# SPDX-License-Identifier: Apache-2.0
"""The published networks by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mrda.core.checks import SCALES
from mrda.networks.mln import MLN
from mrda.networks.mrda import MRDAStudent, MRDATeacher
from mrda.networks.registry import Network

# Table IV's sizes are not printed: these alone give its 19.59 M parameters and 572.96 G mult-adds.
_gan_student = partial(MRDAStudent, scale=4, num_feat=128, num_blocks=21, den_width=128)
_gan_teacher = partial(MRDATeacher, scale=4, num_feat=128, num_blocks=21, den_width=128)

MODELS: dict[str, Callable[[], Network]] = {
    **{f"mrda-x{scale}": partial(MRDAStudent, scale=scale) for scale in SCALES},
    **{f"mrda-teacher-x{scale}": partial(MRDATeacher, scale=scale) for scale in SCALES},
    **{f"mln-x{scale}": partial(MLN, scale=scale) for scale in SCALES},
    "mrda-gan-x4": _gan_student,
    "mrda-gan-teacher-x4": _gan_teacher,
}
"""Each call builds the network with random weights, on the default device."""
