# SPDX-License-Identifier: Apache-2.0
"""The training configuration: typed, with every default on the recommended value.

A configuration is a tree of sections; a dotted path such as ``teacher.steps`` names one field. The field
descriptions are its reference; mrda.config.load has the files that ship with the package and reads others.
"""

from mrda.config.base import STAGES, Section, StageName
from mrda.config.data import DataConfig, DegradationConfig, PairsConfig
from mrda.config.engine import EngineConfig, ValidationConfig
from mrda.config.networks import AdaptationConfig, NetworksConfig
from mrda.config.real import RealConfig
from mrda.config.stages import BicubicConfig, MetaConfig, StageConfig, StudentConfig, TeacherConfig
from mrda.config.train import TrainConfig
from mrda.config.visual import VisualConfig

__all__ = [
    "STAGES",
    "AdaptationConfig",
    "BicubicConfig",
    "DataConfig",
    "DegradationConfig",
    "EngineConfig",
    "MetaConfig",
    "NetworksConfig",
    "PairsConfig",
    "RealConfig",
    "Section",
    "StageConfig",
    "StageName",
    "StudentConfig",
    "TeacherConfig",
    "TrainConfig",
    "ValidationConfig",
    "VisualConfig",
]
