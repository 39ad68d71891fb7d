"""Shared parts of the tests of exported graphs."""

import copy

import numpy as np
import onnxruntime
import torch

from mrda.networks import MRDAStudent

TINY = {"num_feat": 8, "num_blocks": 2, "den_width": 4}


STEERING = ("den.", ".compress.", ".kernel.", ".mask.", ".attention.")
"""Parts of the names of the weights that lead from the image to kernels and masks."""


def student(**options):
    """A student with random weights, whose degradation tells in SR: the signal keeps its scale on its way there."""
    torch.manual_seed(0)
    network = MRDAStudent(**{"scale": 4, **TINY, **options}).eval()
    for name, weight in network.named_parameters():
        if any(part in name for part in STEERING):
            weight.data *= 6**0.5
    return network


def onnx_graphs(folder):
    """`den` and `rdan` of a folder as functions of arrays."""

    def graph(name):
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
        return lambda **feed: session.run(None, feed)[0]

    return graph("den"), graph("rdan")


def exactly(network, lr):
    """SR of an array, computed in float64, and how far float32 may be from it.

    Each layer adds an error of a few units in the last place of its scale (a sum of n products errs by some sqrt(n) eps
    of it, below 8 eps here), LeakyReLU and sigmoid do not amplify it, residual sums add up what is below them: 8 eps
    times the layers times the largest output.
    """
    wide = copy.deepcopy(network).double()
    with torch.no_grad():
        sr = wide(torch.from_numpy(lr).double()).numpy()
    layers = sum(1 for module in network.modules() if not list(module.children()))
    return sr, 8 * layers * np.finfo(np.float32).eps * abs(sr).max()
