"""Losses and gradients, by plain calls and as CUDA graphs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from mrda.config import STAGES, StageName, TrainConfig
from mrda.degradations import Degraded
from mrda.networks import save_network
from mrda.training import STAGES as STAGE_CLASSES
from mrda.training.cuda_graph import PLAIN_CALLS, GraphedBackward
from mrda.training.processes import Processes
from mrda.training.stages import Stage
from mrda.training.trainer import Trainer

Changed = Callable[..., TrainConfig]
DEVICE = torch.device("cuda")


@pytest.fixture(scope="module")
def inputs(toy: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights for stages to start from."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    paths = {"mln": folder / "mln.safetensors", "teacher": folder / "teacher.safetensors"}
    save_network(STAGE_CLASSES["meta"].build(toy), paths["mln"])
    save_network(STAGE_CLASSES["teacher"].build(toy), paths["teacher"])
    return paths


def build(name: StageName, config: TrainConfig, inputs: dict[str, Path]) -> Stage:
    stage: Stage = STAGE_CLASSES[name](config, {"mln": inputs["mln"], "teacher": inputs["teacher"]})
    stage.to(DEVICE)
    return stage


def trainer_of(stage: Stage, config: TrainConfig, micro_batches: int = 1, device: torch.device = DEVICE) -> Trainer:
    processes = Processes(Accelerator(mixed_precision="no"), micro_batches)
    processes.device = device
    return Trainer(stage, config, processes)


def degraded(stage: Stage, config: TrainConfig, seed: int) -> Degraded:
    draws = torch.Generator().manual_seed(seed)
    size = stage.hr_size(config)
    hr = torch.rand(config.stage(stage.name).batch, 3, size, size, generator=draws)
    return stage.degrade(hr.to(DEVICE), torch.Generator(DEVICE).manual_seed(seed))


def gradients(stage: Stage) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in stage.trainable() if parameter.grad is not None])


VARIANTS: list[tuple[StageName, dict[str, dict[str, object]]]] = [
    *((name, {}) for name in STAGES),
    ("meta", {"meta": {"maml_order": 2}}),
    ("teacher", {"teacher": {"den_input": "lr"}}),
    ("teacher", {"teacher": {"den_input": "kernel"}}),
    ("teacher", {"adaptation": {"per": "image"}}),
    ("teacher", {"train": {"luma": 0.75}}),
]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_graphs_compute_what_plain_calls_do(
    name: StageName,
    changes: dict[str, dict[str, object]],
    precision: str,
    toy: TrainConfig,
    inputs: dict[str, Path],
    changed: Changed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    config = changed(toy, student={"encoder_steps": 5, "distil_share": None}, **changes)
    stage = build(name, config, inputs)
    plain = trainer_of(stage, changed(config, train={"mixed_precision": precision}), 2).forward_backward
    graphed = GraphedBackward(plain, stage, DEVICE)
    optimizer = torch.optim.Adam(stage.trainable(), lr=1e-3)
    # Half precision rounds to 11 or 8 bits in each of a dozen layers, forward and backward, and cuDNN may sum in
    # another order.
    tolerance = {"no": 1e-4, "fp16": 24 * 2**-11, "bf16": 24 * 2**-8}[precision]
    for step in range(2 * (PLAIN_CALLS + 2)):  # long enough to capture both phases of the student
        found = []
        for compute in (plain, graphed):
            optimizer.zero_grad()
            terms = [{key: float(value) for key, value in compute(step, degraded(stage, config, step)).items()}]
            once = gradients(stage).clone()
            terms.append(
                {key: float(value) for key, value in compute(step, degraded(stage, config, -1 - step)).items()}
            )
            found.append((terms, once, gradients(stage).clone()))
        (terms, *expected), (graph_terms, *result) = found
        for own, other in zip(graph_terms, terms, strict=True):
            assert own == pytest.approx(other, rel=tolerance, abs=1e-6)
        for own, other in zip(result, expected, strict=True):
            assert (own - other).norm() <= tolerance * other.norm()
        assert not torch.equal(*result)
        optimizer.step()
    assert graphed._graph is not None


@pytest.mark.gpu
def test_a_loss_with_side_effects_is_not_captured(toy: TrainConfig, inputs: dict[str, Path], changed: Changed) -> None:
    def graphed(config: TrainConfig, device: torch.device = DEVICE) -> bool:
        trainer = trainer_of(build("teacher", config, inputs), config, device=device)
        return isinstance(trainer.backward, GraphedBackward)

    assert graphed(toy)
    assert not graphed(toy, torch.device("cpu"))
    for changes in ({"cuda_graphs": False}, {"compile": True}):
        assert not graphed(changed(toy, train=changes))
    assert not graphed(changed(toy, adaptation={"reset_mln": False}))


@pytest.mark.gpu
def test_a_loss_that_waits_for_the_device_is_refused_with_advice(toy: TrainConfig, inputs: dict[str, Path]) -> None:
    stage = build("bicubic", toy, inputs)
    plain = trainer_of(stage, toy).forward_backward

    def reads(step: int, pair: Degraded) -> dict[str, Tensor]:
        terms = plain(step, pair)
        float(terms["loss"])
        return terms

    graphed = GraphedBackward(reads, stage, DEVICE)
    pair = degraded(stage, toy, 0)
    for step in range(PLAIN_CALLS):
        graphed(step, pair)
    with pytest.raises(RuntimeError, match=r"try train\.cuda_graphs=false"):
        graphed(PLAIN_CALLS, pair)
