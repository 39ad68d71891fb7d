# SPDX-License-Identifier: Apache-2.0
"""The networks of MRDA and its sisters DASR and KDSR, with plain keyword arguments, and the files of their weights."""

from mrda.networks.blind import BlindNetwork
from mrda.networks.checkpoints import load_network, save_network
from mrda.networks.complexity import Complexity, complexity
from mrda.networks.conversion import convert_weights
from mrda.networks.dasr import DASR
from mrda.networks.den import DEN, KernelDEN
from mrda.networks.discriminator import UNetDiscriminator
from mrda.networks.discriminator_loading import load_discriminator
from mrda.networks.kdsr import KDSRStudent
from mrda.networks.mln import MLN
from mrda.networks.models import MODELS
from mrda.networks.mrda import MRDAOracle, MRDAStudent, MRDATeacher, lr_with_hr
from mrda.networks.official import load_official, read_official, to_official
from mrda.networks.rda_conv import DASRConv, RDAConv, StaticConv
from mrda.networks.rdan import RDAB, RDAN
from mrda.networks.reading import read_metadata, read_pickle
from mrda.networks.registry import Network
from mrda.networks.unlabelled import load_any
from mrda.networks.vgg import VGG, load_vgg

__all__ = [
    "DASR",
    "DEN",
    "MLN",
    "MODELS",
    "RDAB",
    "RDAN",
    "VGG",
    "BlindNetwork",
    "Complexity",
    "DASRConv",
    "KDSRStudent",
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
    "lr_with_hr",
    "read_metadata",
    "read_official",
    "read_pickle",
    "save_network",
    "to_official",
]
