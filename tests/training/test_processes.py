"""Two processes with one micro-batch each do the work of one process with two."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from mrda.config import STAGES, TrainConfig
from mrda.config.load import load_config
from mrda.training import RunRefusedError, train
from mrda.training.processes import Processes
from mrda.training.run import check_processes

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = 3
LR = 1e-3  # of all stages of the toy
pytestmark = pytest.mark.xdist_group("system")


def torchrun(*arguments: str) -> str:
    """Run Python with those arguments in two processes; returns what they print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [sys.executable, *launcher, *arguments], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def largest_difference(one: Path, other: Path) -> float:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "reset_mln"), [("toy", "false"), ("real-toy", "true")], ids=["drift", "real"])
def test_two_processes_equal_one_with_two_micro_batches(
    config: str, reset_mln: str, photo: Path, tmp_path: Path
) -> None:
    # Of the real-world toy the third step, the last one, goes through the discriminator in teacher and student.
    visual = ("teacher.visual_from=1", "student.visual_from=1") if config == "real-toy" else ()
    options = [
        f"data.sources=['{photo}']",
        f"validation.sources=['{photo}']",
        "validation.every=2",
        f"train.steps={STEPS}",
        "train.log_every=1",
        f"adaptation.reset_mln={reset_mln}",
        "train.ema_decay=0.5",
        *visual,
    ]
    train(load_config(config, [*options, "train.micro_batches=2"]), tmp_path / "one", progress=False)
    settings = [word for option in options for word in ("--set", option)]
    said = torchrun("-m", "mrda", "train", "--config", config, "--run-dir", str(tmp_path / "two"), *settings)
    told = [line.split(":")[0] for line in said.splitlines()]
    assert [name for name in told if name in STAGES] == list(STAGES)  # one process speaks for both
    for name in STAGES:
        one, two = (tmp_path / run / name for run in ("one", "two"))
        # An Adam step is the learning rate times a quotient of gradients, which differ by the rounding of a sum; a
        # thousandth of it is left for gradients that nearly cancel.
        budget = STEPS * (torch.finfo().eps + 1e-3 * LR)
        assert largest_difference(one / "weights.safetensors", two / "weights.safetensors") <= budget
        records = [
            [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (one, two)
        ]
        assert len(records[0]) == len(records[1]) == STEPS + 2  # and two validations
        for first, second in zip(*records, strict=True):
            for key in ("loss", "gradient_norm"):
                if key in first:
                    # A mean over a few thousand pixels of a dozen layers.
                    assert second[key] == pytest.approx(first[key], rel=1e-4)


def test_inner_gradients_are_averaged_over_processes(tmp_path: Path) -> None:
    """Two processes that adapt one MLN to half a batch each get what one gets from the whole."""
    torchrun(str(Path(__file__).with_name("two_processes.py")), str(tmp_path))
    together = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    torch.testing.assert_close(together[0]["synced"], together[1]["synced"], rtol=0, atol=0)
    # The same sums of some hundred products, in another order, in float64.
    torch.testing.assert_close(
        together[0]["synced"], together[0]["whole"], rtol=0, atol=500 * torch.finfo(torch.float64).eps
    )
    assert not torch.equal(together[0]["alone"]["head.0.weight"], together[1]["alone"]["head.0.weight"])
    assert [result["any"] for result in together] == [[False, True]] * 2
    assert [result["broadcast"] for result in together] == [("from", 0)] * 2
    assert [result["gathered"] for result in together] == [["0", "1", "1"]] * 2


@pytest.mark.parametrize(
    ("processes", "change", "message"),
    [
        (
            1,
            {"train": {"micro_batches": 2}},
            r"one micro-batch for each process.*micro_batches is 2, the processes are 1$",
        ),
        (
            2,
            {"train": {"micro_batches": 4}},
            r"one micro-batch for each process.*micro_batches is 4, the processes are 2$",
        ),
        (1, {"adaptation": {"per": "image"}}, r"requires adaptation\.per=batch"),
        (2, {"meta": {"maml_order": 2}}, r"requires meta\.maml_order=1 on several processes"),
    ],
)
def test_what_can_not_adapt_together_is_refused_before_any_training(
    processes: int,
    change: dict[str, dict[str, object]],
    message: str,
    toy: TrainConfig,
    changed: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = changed(toy, **change)
    config = changed(config, train={"adapt_sync": True})
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: processes))
    with pytest.raises(RunRefusedError, match=message):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_what_adapts_together_or_on_its_own_is_not_refused(
    toy: TrainConfig, changed: Callable[..., TrainConfig]
) -> None:
    together = changed(toy, train={"adapt_sync": True, "micro_batches": 2}, meta={"maml_order": 2})
    check_processes(together, ["teacher", "student"], 2)
    check_processes(changed(together, meta={"maml_order": 1}), STAGES, 2)
    check_processes(changed(together, train={"micro_batches": 1}), STAGES, 1)
    check_processes(changed(together, train={"adapt_sync": False}, adaptation={"per": "image"}), STAGES, 1)


def test_micro_batches_that_can_not_be_shared_out_are_refused(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = Accelerator(mixed_precision="no")
    assert list(Processes(accelerator, 3).local_micro_batches()) == [0, 1, 2]
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 2))
    monkeypatch.setattr(Accelerator, "process_index", property(lambda _: 1))
    assert list(Processes(accelerator, 4).local_micro_batches()) == [2, 3]
    assert Processes(accelerator, None).micro_batches == 2
    with pytest.raises(ValueError, match=r"train\.micro_batches is 3, but must be a multiple of the 2 processes"):
        Processes(accelerator, 3)
