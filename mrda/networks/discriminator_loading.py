# SPDX-License-Identifier: Apache-2.0
"""Loading discriminators: from our own files, and from files in the format of Real-ESRGAN's."""

from __future__ import annotations

import os
from pathlib import Path

from mrda.core.faults import reason
from mrda.networks.checkpoints import load_network
from mrda.networks.discriminator import UNetDiscriminator
from mrda.networks.official import read_official
from mrda.networks.registry import build, check_tensors


def load_discriminator(path: str | os.PathLike[str]) -> UNetDiscriminator:
    """Load a discriminator, on the CPU and in float32.

    Args:
        path: Our .safetensors; or a .pth or .pt with a state dict like that of ``RealESRGAN_x4plus_netD.pth``, whose
            shapes give the sizes.

    Raises:
        ValueError: The file cannot be read, or holds something else.
    """
    if Path(path).suffix not in (".pth", ".pt"):
        return load_network(path, expect=UNetDiscriminator)
    name, state = f"weights {os.fspath(path)}", read_official(path)
    first = state.get("conv0.weight")
    if first is None or first.dim() != 4:
        raise ValueError(f"{name} must hold a U-Net discriminator, whose first layer is conv0.weight with 4 dimensions")
    try:
        network = build(UNetDiscriminator, {"num_feat": first.shape[0], "in_channels": first.shape[1]})
    except ValueError as error:
        raise ValueError(f"{name} have the shapes of an impossible discriminator: {reason(error)}") from error
    check_tensors(name, state, network.state_dict())
    network.load_state_dict(state)
    return network
