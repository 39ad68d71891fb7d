import math
from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mrda.config import TrainConfig
from mrda.training import muon
from mrda.training.muon import Muon, is_matrix, orthogonalize
from mrda.training.processes import Processes
from mrda.training.stages import BicubicStage
from mrda.training.trainer import Trainer

Changed = Callable[..., TrainConfig]
SHAPES = ((32, 16, 3, 3), (16, 32, 3, 3), (16, 200), (200, 16), (3, 16, 3, 3), (16, 1, 3, 3), (32,))


def made(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=random) for shape in shapes]


def moved(
    parameters: list[Tensor], gradients: list[list[Tensor]], make: Callable[..., torch.optim.Optimizer] = Muon
) -> list[Tensor]:
    """Return copies of parameters after a step on each list of gradients."""
    copies = [nn.Parameter(parameter.clone()) for parameter in parameters]
    optimizer = make(copies, lr=0.01)
    for step in gradients:
        for copy, gradient in zip(copies, step, strict=True):
            copy.grad = gradient.clone()
        optimizer.step()
        assert all(torch.equal(copy.grad, gradient) for copy, gradient in zip(copies, step, strict=True))
    return [copy.detach() for copy in copies]


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (64, 576)])
def test_a_matrix_keeps_its_singular_vectors_and_gets_values_near_one(shape: tuple[int, int]) -> None:
    left = torch.linalg.qr(made((shape[0], shape[0]))[0]).Q
    right = torch.linalg.qr(made((shape[1], shape[0]), seed=1)[0]).Q
    values = torch.logspace(0, -2, shape[0])
    found = orthogonalize((1e-6 * left * values @ right.mT)[None])[0]
    inside = left.mT @ found @ right
    assert 0.65 < float(inside.diagonal().min()) <= float(inside.diagonal().max()) < 1.25
    assert float((inside - torch.diag(inside.diagonal())).abs().max()) < 1e-4
    assert float((found - left @ inside @ right.mT).abs().max()) < 1e-5


def test_zeros_stay_zeros() -> None:
    assert not orthogonalize(torch.zeros(2, 16, 20)).any()


def test_only_large_matrices_are_made_orthogonal() -> None:
    assert [is_matrix(tensor) for tensor in made(*SHAPES)] == [True] * 4 + [False] * 3


def test_small_weights_move_as_by_adam() -> None:
    parameters, gradients = made(*SHAPES), [made(*SHAPES, seed=seed) for seed in (1, 2, 3)]
    ours, adam = moved(parameters, gradients), moved(parameters, gradients, torch.optim.Adam)
    for one, other, shape in zip(ours, adam, SHAPES, strict=True):
        assert torch.equal(one, other) != is_matrix(torch.empty(shape))


def test_matrices_move_by_nesterov_momentum_along_the_nearest_orthogonal_matrix() -> None:
    shapes = SHAPES[:4]
    parameters, gradients = made(*shapes), [made(*shapes, seed=seed) for seed in (1, 2)]
    once, twice = moved(parameters, gradients[:1]), moved(parameters, gradients)
    for before, after, first, second in zip(once, twice, *gradients, strict=True):
        momentum = 0.95 * first + second
        left, _, right = torch.linalg.svd((second + 0.95 * momentum).double().flatten(1), full_matrices=False)
        wanted = -0.01 * 0.2 * math.sqrt(max(before.flatten(1).shape)) * left @ right
        way = (after - before).flatten(1).double()
        # Singular values of the iteration lie between 0.7 and 1.2 instead of at 1.
        assert float((way * wanted).sum() / (way.norm() * wanted.norm())) > 0.97
        assert 0.7 < float(way.norm() / wanted.norm()) < 1.2


def test_matrices_of_one_size_move_as_each_alone() -> None:
    parameters, gradients = made(*[(16, 20), (20, 16)] * 6), made(*[(16, 20), (20, 16)] * 6, seed=1)
    together = moved(parameters, [gradients])
    for parameter, gradient, found in zip(parameters, gradients, together, strict=True):
        torch.testing.assert_close(moved([parameter], [[gradient]])[0], found, rtol=1e-5, atol=1e-6)
    # A tall matrix moves as its transpose does.
    torch.testing.assert_close(moved([parameters[1].T], [[gradients[1].T]])[0].T, together[1], rtol=1e-5, atol=1e-6)


def test_the_memory_layout_changes_nothing() -> None:
    parameters, gradients = made((16, 32, 3, 3)), made((16, 32, 3, 3), seed=1)
    turned = [tensor.to(memory_format=torch.channels_last) for tensor in (*parameters, *gradients)]
    found = moved(turned[:1], [turned[1:]])[0]
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, moved(parameters, [gradients])[0], rtol=1e-5, atol=1e-6)


def test_a_stage_trains_by_it_and_goes_on_to_the_bit(toy: TrainConfig, changed: Changed) -> None:
    config = changed(toy, networks={"mln_feat": 16}, bicubic={"optimizer": "muon"})
    random = torch.Generator().manual_seed(0)
    patches = [torch.randint(256, (2, 3, 24, 24), dtype=torch.uint8, generator=random) for _ in range(4)]

    def trainer() -> Trainer:
        return Trainer(BicubicStage(config, {}), config, Processes(Accelerator(mixed_precision="no"), 1))

    whole, first, second = trainer(), trainer(), trainer()
    assert isinstance(whole.optimizer, Muon)
    for patch in patches:
        whole.train_step(iter([patch]))
    for patch in patches[:2]:
        first.train_step(iter([patch]))
    second.stage.network.load_state_dict(first.stage.network.state_dict())
    second.load_state_dict(first.state_dict())
    for patch in patches[2:]:
        second.train_step(iter([patch]))
    for name, value in whole.stage.network.state_dict().items():
        assert torch.equal(second.stage.network.state_dict()[name], value), name


def test_in_mixed_precision_the_matrix_products_are_in_half_precision(
    toy: TrainConfig, changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def recorded(matrices: Tensor) -> Tensor:
        steps = orthogonalize(matrices)
        found.append((steps, matrices))
        return steps

    monkeypatch.setattr(muon, "orthogonalize", recorded)
    config = changed(toy, networks={"mln_feat": 16}, bicubic={"optimizer": "muon"}, train={"mixed_precision": "bf16"})
    trainer = Trainer(BicubicStage(config, {}), config, Processes(Accelerator(mixed_precision="no"), 1))
    trainer.train_step(iter([torch.randint(256, (2, 3, 24, 24), dtype=torch.uint8)]))
    assert found
    for steps, matrices in found:
        assert steps.dtype == torch.bfloat16
        wanted = orthogonalize(matrices)
        assert torch.cosine_similarity(steps.float().flatten(), wanted.flatten(), dim=0) > 0.99
