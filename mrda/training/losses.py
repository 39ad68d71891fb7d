"""Reconstruction and adversarial losses, and the distillation losses between the raw IDRs of student and teacher."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mrda.core.checks import check_choice, check_positive


def reconstruction(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean |SR - HR| over all elements of two (B, 3, H, W), in the wider of their dtypes."""
    return F.l1_loss(sr, hr)


def generator_loss(fake: Tensor) -> Tensor:
    """Binary cross entropy of the discriminator's logits on SR to the label real: what the SR network minimises.

    Args:
        fake: logits of any shape, such as (B, 1, H, W), above 0 where SR passes for real.

    Returns:
        The mean over all elements of -log(sigmoid(fake)), a scalar, in float32 at least.
    """
    return F.softplus(-_wide(fake)).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross entropy of the discriminator's logits to the labels real and fake, added and not halved.

    Args:
        real: logits on HR, of any shape.
        fake: logits on SR, which must be detached, of any shape.

    Returns:
        The mean of -log(sigmoid(real)) plus that of -log(1 - sigmoid(fake)), a scalar, in float32 at least.
    """
    return F.softplus(-_wide(real)).mean() + F.softplus(_wide(fake)).mean()


def kl_divergence(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 0.15,
    reduction: Literal["batchmean", "mean_elements"] = "batchmean",
) -> Tensor:
    """KL(p_T || p_S) of the softmax of the raw IDRs over a temperature (Eq. 4); no factor temperature^2.

    Args:
        student: (B, 4C) raw IDR of the student.
        teacher: (B, 4C) raw IDR of the teacher.
        temperature: what both are divided by; positive.
        reduction: ``batchmean`` sums over the 4C elements and averages over the batch (the published code);
            ``mean_elements`` averages over both (Eq. 4 as printed).

    Returns:
        A scalar, not negative.

    Raises:
        TypeError: the temperature is not a number.
        ValueError: the shapes differ or are not (B, 4C), the temperature is not positive, or the reduction is unknown.
    """
    _check_pair(student, teacher)
    check_positive("temperature", temperature)
    check_choice("reduction", reduction, ("batchmean", "mean_elements"))
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    total = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    return total / (student.shape[0] if reduction == "batchmean" else student.numel())


def absolute_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean |z_S - z_T| over batch and elements of the raw IDRs (B, 4C) (Eq. 5).

    Raises:
        ValueError: the shapes differ or are not (B, 4C).
    """
    _check_pair(student, teacher)
    return F.l1_loss(student, teacher)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _check_pair(student: Tensor, teacher: Tensor) -> None:
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher have shapes {tuple(student.shape)} and {tuple(teacher.shape)}, "
            "but must be raw IDRs of one shape (B, 4C)"
        )
