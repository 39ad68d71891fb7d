# SPDX-License-Identifier: Apache-2.0
"""The networks of MRDA, with plain keyword arguments, and the files that hold their weights."""

from mrda.networks.checkpoints import load_network, save_network
from mrda.networks.complexity import Complexity, complexity
from mrda.networks.conversion import convert_weights
from mrda.networks.den import DEN, KernelDEN
from mrda.networks.discriminator import UNetDiscriminator
from mrda.networks.discriminator_loading import load_discriminator
from mrda.networks.mln import MLN
from mrda.networks.models import MODELS
from mrda.networks.mrda import MRDAOracle, MRDAStudent, MRDATeacher
from mrda.networks.official import load_official, read_official, to_official
from mrda.networks.rda_conv import DASRConv, RDAConv, StaticConv
from mrda.networks.rdan import RDAB, RDAN
from mrda.networks.reading import read_metadata, read_pickle
from mrda.networks.registry import Network
from mrda.networks.unlabelled import load_any
from mrda.networks.vgg import VGG, load_vgg

__all__ = [
    "DEN",
    "MLN",
    "MODELS",
    "RDAB",
    "RDAN",
    "VGG",
    "Complexity",
    "DASRConv",
    "KernelDEN",
    "MRDAOracle",
    "MRDAStudent",
    "MRDATeacher",
    "Network",
    "RDAConv",
    "StaticConv",
    "UNetDiscriminator",
    "complexity",
    "convert_weights",
    "load_any",
    "load_discriminator",
    "load_network",
    "load_official",
    "load_vgg",
    "read_metadata",
    "read_official",
    "read_pickle",
    "save_network",
    "to_official",
]
