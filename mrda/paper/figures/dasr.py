# SPDX-License-Identifier: Apache-2.0
"""The degradation encoder of DASR (CVPR 2021), for its panel of Fig. 7."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from mrda.core.checks import check_image
from mrda.networks import read_pickle
from mrda.networks.layers import any_tensor

_WIDTHS = ((3, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1))
_ENCODER = re.compile(r"(?:module\.)?(?:E\.)?E\.encoder_q\.E\.(.*)")
_RANGE = 255.0  # of the published network's pixels, in its batch statistics
_COUNTER = "num_batches_tracked"  # of batch normalisation in training; files of an old torch have none


class DASREncoder(nn.Module):
    """Six 3x3 convolutions, each with batch normalisation and LeakyReLU(0.1), and an average over all positions."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for in_channels, out_channels, stride in _WIDTHS:
            layers.append(nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1))
            layers += [nn.BatchNorm2d(out_channels), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, lr: Tensor) -> Tensor:
        """Return the representation (B, 256) of LR (B, 3, H, W) in [0, 1].

        Raises:
            TypeError: ``lr`` is not a floating point tensor of the weights' dtype.
            ValueError: ``lr`` has another shape or device.
        """
        check_image("lr", lr, like=any_tensor(self))
        return self.layers(_RANGE * lr).mean(dim=(2, 3))


def load_dasr_encoder(path: str | Path) -> DASREncoder:
    """Load the encoder out of a DASR checkpoint, in evaluation mode.

    Only the query encoder's convolutions are read (keys ``E.encoder_q.E.*``, also under ``module.`` or a further
    ``E.``); the rest of the file, a super-resolution network and a contrastive head, is ignored.

    Args:
        path: a .pth or .pt file, read with ``weights_only=True``.

    Raises:
        ValueError: the file can't be read, or lacks one of the encoder's tensors, has a further or a misshapen one, or
            something else in its place.
    """
    state = read_pickle(path)
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds {type(state).__name__}, but must hold a state dict")
    found = {match[1]: tensor for key, tensor in state.items() if (match := _ENCODER.fullmatch(str(key)))}
    for key, value in found.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path} has {type(value).__name__} at E.encoder_q.E.{key}, but must have a tensor")
    encoder = DASREncoder()
    expected = encoder.layers.state_dict()
    missing = [key for key in expected if key not in found and not key.endswith(_COUNTER)]
    further = [key for key in found if key not in expected]
    misshapen = [key for key in expected if key in found and found[key].shape != expected[key].shape]
    for what, keys in (("lacks", missing), ("has the unknown", further), ("has the misshapen", misshapen)):
        if keys:
            raise ValueError(f"{path} {what} {', '.join(f'E.encoder_q.E.{key}' for key in keys[:3])} of DASR's encoder")
    encoder.layers.load_state_dict(expected | found)
    return encoder.requires_grad_(False).eval()
