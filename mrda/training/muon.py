# SPDX-License-Identifier: Apache-2.0
"""The optimizer Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal, and Adam for all else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the odd polynomial of degree 5 that `orthogonalize` applies to singular values (Jordan's)."""
ADAM_LIKE = 0.2
"""Root mean square of a step over the rate (Liu et al. 2025, arXiv:2502.16982, Eq. 4), so that Adam's rates do."""
SMALLEST_SIDE = 16
TOGETHER = 8  # matrices of a batched product: enough for its speed, few enough for a cache


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return matrices (N, m, n), m <= n, with their singular vectors, and singular values between 0.7 and 1.2.

    That is five steps of a Newton-Schulz iteration, in matrix products alone. Singular values below a thousandth of
    the matrix's norm stay smaller, and a matrix of zeros stays one.
    """
    linear, cubic, quintic = COEFFICIENTS
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + torch.finfo(matrices.dtype).tiny)
    for _ in range(ITERATIONS):
        square = torch.bmm(x, x.mT)
        factor = torch.baddbmm(square, square, square, beta=cubic, alpha=quintic)
        x = torch.baddbmm(x, factor, x, beta=linear)
    return x


def is_matrix(parameter: Tensor) -> bool:
    """True for the weights that Muon moves: a convolution's or a linear layer's, as a matrix of at least 16 x 16.

    The rows are a layer's outputs, the columns its inputs. Depthwise convolutions and the last one to RGB are too
    small, and biases are no matrices.
    """
    return parameter.ndim >= 2 and min(len(parameter), parameter[0].numel()) >= SMALLEST_SIDE


class Muon(torch.optim.Adam):
    """Muon with Nesterov momentum for all weights of `is_matrix`, Adam for the others, both without weight decay.

    Args:
        parameters: parameters, or groups of them, as for :class:`torch.optim.Adam`.
        lr: learning rate of both; a step's root mean square is 0.2 of it in each matrix.
        betas: Adam's decay rates.
        fused: as for :class:`torch.optim.Adam`, for Adam's part.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        fused: bool | None = None,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, fused=fused)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient."""
        matrices = [
            (parameter, parameter.grad, group["lr"])
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and is_matrix(parameter)
        ]
        for parameter, _, _ in matrices:
            parameter.grad = None  # so that Adam passes over it
        super().step()
        alike: dict[tuple[int, int], list[tuple[Tensor, float, Tensor]]] = {}
        for parameter, gradient, rate in matrices:
            parameter.grad = gradient
            state = self.state[parameter]
            if not state:
                state |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(parameter)}  # Adam loads a step
            state["step"] += 1
            momentum = state["momentum"].mul_(MOMENTUM).add_(gradient)
            wanted = gradient.add(momentum, alpha=MOMENTUM).flatten(1)
            rows, columns = wanted.shape
            wide = wanted if rows <= columns else wanted.T
            alike.setdefault((min(rows, columns), max(rows, columns)), []).append((parameter, rate, wide))
        for (_, longest), members in alike.items():
            for start in range(0, len(members), TOGETHER):
                part = members[start : start + TOGETHER]
                steps = orthogonalize(torch.stack([wide for _, _, wide in part]))
                for (parameter, rate, _), step in zip(part, steps, strict=True):
                    along = step if len(parameter) == len(step) else step.T
                    parameter.add_(along.reshape(parameter.shape), alpha=-rate * ADAM_LIKE * math.sqrt(longest))
