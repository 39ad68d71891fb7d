import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mrda.config.stages import StudentConfig
from mrda.training.losses import (
    absolute_difference,
    discriminator_loss,
    generator_loss,
    kl_divergence,
    reconstruction,
)

EPS = torch.finfo(torch.float64).eps
PUBLISHED: dict[str, Any] = {"temperature": 0.15, "reduction": "batchmean"}


def idr(seed: int, batch: int = 3, size: int = 8) -> Tensor:
    return torch.randn(batch, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row: list[float], temperature: float) -> list[float]:
    weights = [math.exp(value / temperature) for value in row]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("temperature", [1.0, 0.15])
def test_kl_is_the_sum_of_the_paper(temperature: float) -> None:
    student, teacher = idr(0), idr(1)
    total = 0.0
    for row_s, row_t in zip(student.tolist(), teacher.tolist(), strict=True):
        pairs = zip(softmax(row_s, temperature), softmax(row_t, temperature), strict=True)
        total += sum(p_t * math.log(p_t / p_s) for p_s, p_t in pairs)
    # Inputs of at most about 3/0.15 in the exponent: a relative error of 20 eps each, over 24 terms of a sum.
    budget = 24 * 20 * EPS * max(1.0, total)
    batchmean = kl_divergence(student, teacher, temperature=temperature, reduction="batchmean")
    mean = kl_divergence(student, teacher, temperature=temperature, reduction="mean_elements")
    assert abs(float(batchmean) - total / 3) <= budget
    assert abs(float(mean) - total / 24) <= budget


def test_the_default_is_the_published_form() -> None:
    student, teacher, section = idr(0), idr(1), StudentConfig()
    published = kl_divergence(student, teacher, **PUBLISHED)
    default = kl_divergence(student, teacher, temperature=section.kl_temperature, reduction=section.kl_reduction)
    assert torch.equal(default, published)


def test_kl_vanishes_for_equal_idrs_and_for_a_common_shift() -> None:
    teacher = idr(0)
    assert abs(float(kl_divergence(teacher, teacher, **PUBLISHED))) == 0
    assert abs(float(kl_divergence(teacher + 0.5, teacher, **PUBLISHED))) <= 8 * 20 * EPS


def test_absolute_difference_is_the_mean_over_everything() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    assert float(absolute_difference(student, teacher)) == (0 + 2 + 3 + 1) / 4


@pytest.mark.parametrize("loss", [partial(kl_divergence, **PUBLISHED), absolute_difference])
def test_idrs_of_different_shapes_are_refused(loss: object) -> None:
    assert callable(loss)
    for student, teacher in [(idr(0), idr(1, batch=1)), (idr(0)[0], idr(1)[0])]:
        with pytest.raises(ValueError, match=r"but must be raw IDRs of one shape \(B, 4C\)"):
            loss(student, teacher)


def test_reconstruction_is_in_float32_for_a_bfloat16_sr() -> None:
    sr = torch.full((1, 3, 2, 2), 0.5, dtype=torch.bfloat16)
    hr = torch.full((1, 3, 2, 2), 0.5 + 2**-12)
    loss = reconstruction(sr, hr)
    assert loss.dtype == torch.float32
    assert float(loss) == 2**-12


def test_a_share_of_the_reconstruction_is_taken_on_luma() -> None:
    red, blue = torch.zeros(2, 1, 3, 1, 1)
    red[:, 0], blue[:, 2] = 0.5, -0.5
    black = torch.zeros(1, 3, 1, 1)
    assert float(reconstruction(red, black, luma=1)) == pytest.approx(0.299 * 0.5, rel=1e-6)
    assert float(reconstruction(blue, black, luma=1)) == pytest.approx(0.114 * 0.5, rel=1e-6)
    assert float(reconstruction(blue, black, luma=0.25)) == pytest.approx(0.25 * 0.057 + 0.75 * 0.5 / 3, rel=1e-6)


def test_adversarial_losses_are_cross_entropies_of_the_sigmoid() -> None:
    real, fake = idr(0), idr(1)

    def cross_entropy(logits: Tensor, label: int) -> float:
        probabilities = [1 / (1 + math.exp(-logit)) for logit in logits.flatten().tolist()]
        return -sum(math.log(p if label else 1 - p) for p in probabilities) / len(probabilities)

    # Logits of at most 4: probabilities and their logarithms err by few eps each, over 24 terms.
    budget = 24 * 20 * EPS
    assert abs(float(generator_loss(fake)) - cross_entropy(fake, 1)) <= budget
    assert abs(float(discriminator_loss(real, fake)) - cross_entropy(real, 1) - cross_entropy(fake, 0)) <= budget
    assert float(discriminator_loss(torch.zeros(2), torch.zeros(3))) == pytest.approx(2 * math.log(2), rel=1e-6)


def test_adversarial_losses_of_extreme_logits_are_finite_and_have_gradients() -> None:
    fake = torch.tensor([-200.0, 200.0], requires_grad=True)
    loss = generator_loss(fake)
    assert float(loss) == 100
    loss.backward()
    assert fake.grad is not None
    assert fake.grad.tolist() == [-0.5, 0]
    assert float(discriminator_loss(-fake.detach(), fake.detach())) == 100 + 100


def test_adversarial_losses_are_in_float32_for_bfloat16_logits() -> None:
    logits = torch.full((1, 1, 4, 4), 0.5, dtype=torch.bfloat16)
    assert generator_loss(logits).dtype == torch.float32
    assert torch.equal(generator_loss(logits), generator_loss(logits.float()))
    assert torch.equal(discriminator_loss(logits, logits), discriminator_loss(logits.float(), logits.float()))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"reduction": "sum"}, ValueError, "reduction is 'sum', but must be one of 'batchmean', 'mean_elements'"),
        ({"temperature": 0.0}, ValueError, r"temperature is 0\.0, but must be positive"),
        ({"temperature": -1.0}, ValueError, r"temperature is -1\.0, but must be positive"),
        ({"temperature": math.nan}, ValueError, "temperature is nan, but must be finite"),
        ({"temperature": "warm"}, TypeError, "temperature is 'warm', but must be a number"),
    ],
)
def test_bad_options_of_kl(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        kl_divergence(idr(0), idr(1), **PUBLISHED | options)
