"""The MLN's adaptation, written out (Algorithm 2)."""

import copy

import torch
from torch import Tensor

from mrda.networks import MLN


def sgd_by_hand(
    mln: MLN, lr: Tensor, lr_up: Tensor, hr: Tensor, rates: list[float], freeze_upscaler: bool
) -> dict[str, Tensor]:
    """Adapt a copy of an MLN by plain SGD on its L1 loss; return its weights."""
    mln = copy.deepcopy(mln).requires_grad_()
    for rate in rates:
        mln.zero_grad()
        (mln(lr, lr_up) - hr).abs().mean().backward()
        with torch.no_grad():
            for name, parameter in mln.named_parameters():
                if not (freeze_upscaler and name.startswith("upscaler.")):
                    parameter -= rate * parameter.grad
    return dict(mln.named_parameters())
