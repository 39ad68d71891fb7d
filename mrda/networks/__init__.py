"""The networks of MRDA, with plain keyword arguments, and the files that hold their weights."""

from mrda.networks.checkpoints import load_network, load_official, read_metadata, save_network, to_official
from mrda.networks.den import DEN
from mrda.networks.mln import MLN
from mrda.networks.mrda import MRDAStudent, MRDATeacher
from mrda.networks.rdan import RDAB, RDAN, RDAConv

__all__ = [
    "DEN",
    "MLN",
    "RDAB",
    "RDAN",
    "MRDAStudent",
    "MRDATeacher",
    "RDAConv",
    "load_network",
    "load_official",
    "read_metadata",
    "save_network",
    "to_official",
]
