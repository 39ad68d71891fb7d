"""A stand-in for weights between a pair."""

import torch

from mrda.networks import MRDAStudent
from mrda.upscale.upscaler import Upscaler


def at_strength(strength):
    """Return an upscaler of which each strength has its own."""
    torch.manual_seed(int(100 * strength))
    return Upscaler(MRDAStudent(scale=2, num_feat=8, num_blocks=1, den_width=4))
