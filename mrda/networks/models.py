# SPDX-License-Identifier: Apache-2.0
"""The published networks by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mrda.networks.dasr import DASR
from mrda.networks.kdsr import KDSRStudent
from mrda.networks.mln import MLN
from mrda.networks.mrda import MRDAStudent, MRDATeacher
from mrda.networks.registry import Network
from mrda.options import networks as options

_CLASSES: dict[type, Callable[..., Network]] = {
    options.MRDAOptions: MRDAStudent,
    options.TeacherOptions: MRDATeacher,
    options.MLNOptions: MLN,
    options.DASROptions: DASR,
    options.KDSROptions: KDSRStudent,
}

MODELS: dict[str, Callable[[], Network]] = {
    name: partial(_CLASSES[type(chosen)], chosen) for name, chosen in options.MODELS.items()
}
"""Each call builds the network with random weights, on the default device."""
