# SPDX-License-Identifier: Apache-2.0
"""The published state dicts of DASR and KDSR: their key names, and the sizes that keys and shapes show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mrda.networks.dasr import DASR
from mrda.networks.kdsr import KDSRStudent

Family = DASR | KDSRStudent

# Our names on the left, the published ones on the right; the first match of each line is replaced.
_DASR_NAMES = (
    (".rda_conv", ".da_conv"),
    (".project.", ".conv."),
    (".attention.", ".ca.conv_du."),
    ("rdan.head.", "G.head.0."),
    ("rdan.compress.", "G.compress.0."),
    ("rdan.upscaler.expand.", "G.tail.0."),
    ("rdan.upscaler.last.", "G.tail.1."),
    ("den.convs.", "E.encoder_q.E."),
    ("den.mlp.", "E.encoder_q.mlp."),
)
_KDSR_NAMES = (
    (".dynamic.", ".da_conv1."),
    ("rdan.head.", "G.head.0."),
    ("rdan.compress.", "E_st.compress.0."),
    ("rdan.body_tail.", "G.body.1."),
    ("rdan.upscaler.expand.", "G.tail.0."),
    ("rdan.upscaler.last.", "G.tail.1."),
    ("den.convs.", "E_st.E."),
    ("den.mlp.", "E_st.mlp."),
)
_ATTENTION = ".ca.conv_du."  # linear layers here, 1x1 convolutions there
_NORMS = (1, 4, 7, 10, 13, 16)  # places of BatchNorm in DASR's encoder
_COUNTERS = tuple(f"E.encoder_q.E.{place}.num_batches_tracked" for place in _NORMS)


def is_dasr(keys: Iterable[str]) -> bool:
    """Return True for the keys of a state dict of DASR."""
    return any(isinstance(key, str) and key.startswith("E.encoder_q.") for key in keys)


def ignored_keys(keys: Iterable[str]) -> list[str]:
    """Return the keys of a state dict of DASR that only training uses, in their order.

    They are the counters of BatchNorm, the momentum encoder, and the queue of the contrastive loss.
    """
    return [key for key in keys if key in (*_COUNTERS, "E.queue", "E.queue_ptr") or str(key).startswith("E.encoder_k.")]


def official_key(ours: str, network: Family) -> str:
    """Return the published name of a parameter of ``network``."""
    if isinstance(network, DASR):
        groups, size = network.options.num_groups, network.options.num_blocks
        if block := re.match(r"rdan\.blocks\.(\d+)\.(.*)", ours):
            group, place = divmod(int(block[1]), size)
            ours = f"G.body.{group}.body.{place}.{block[2]}"
        ours = re.sub(r"^rdan\.group_tails\.(\d+)\.", rf"G.body.\1.body.{size}.", ours)
        ours = ours.replace("rdan.body_tail.", f"G.body.{groups}.", 1)
    else:
        ours = re.sub(r"^rdan\.blocks\.(\d+)\.conv\.", r"G.body.0.body.\1.conv1.", ours)
        ours = re.sub(r"^rdan\.blocks\.(\d+)\.", r"G.body.0.body.\1.", ours)
    for old, new in _DASR_NAMES if isinstance(network, DASR) else _KDSR_NAMES:
        ours = ours.replace(old, new, 1)
    return ours


def as_published(key: str, tensor: Tensor) -> Tensor:
    """Return a tensor in the shape that it has under its published key."""
    return tensor[..., None, None] if _ATTENTION in key else tensor


def counters(network: Family) -> dict[str, Tensor]:
    """Return the tensors of a published state dict that are ignored and still belong to it."""
    return {key: torch.tensor(0) for key in _COUNTERS} if isinstance(network, DASR) else {}


def sizes(state: Mapping[str, Tensor], architecture: type[Family]) -> dict[str, Any]:
    """Return the numbers of layers that keys show; `mrda.networks.official` finds the widths."""

    def count(pattern: str) -> int:
        return len({found[1] for key in state if (found := re.match(pattern, key))})

    if architecture is KDSRStudent:
        return {
            "num_blocks": count(r"G\.body\.0\.body\.(\d+)\."),
            "den_blocks": count(r"E_st\.E\.(\d+)\.body\."),
        }
    return {
        "num_groups": count(r"G\.body\.(\d+)\.body\."),
        "num_blocks": count(r"G\.body\.0\.body\.(\d+)\.da_conv1\."),
    }
