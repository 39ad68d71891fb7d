"""Training on disks that fill up: it stops with a sentence, and continues from what it has saved."""

import shutil
import subprocess
from pathlib import Path

import pytest
from commands import run
from disks import disk_of
from safetensors.torch import load_file

from mrda.training import RunStoppedError, train
from mrda.training.checkpoints import Checkpoints


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.filterwarnings("error")
def test_a_run_stops_on_a_full_disk_and_continues_from_what_it_has_saved(toy, changed, tmp_path, capfd):
    config = changed(toy, train={"checkpoint_every": 1, "keep_checkpoints": 1})
    train(config, tmp_path / "whole", stages=["bicubic"], progress=False)
    expected = load_file(tmp_path / "whole/bicubic/weights.safetensors")
    total = sum(4096 + path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    stopped = 0
    with disk_of(tmp_path / "disk", "1m") as disk:
        for share in range(1, 12):
            run_dir = disk / str(share)
            resize(disk, total * share // 8)
            message = ""
            try:
                train(config, run_dir, stages=["bicubic"], progress=False)
            except RunStoppedError as error:
                message = str(error)
            if message:
                stopped += 1
                assert message.startswith(f"training stopped at {run_dir}")
                assert "the disk is full (no space left); kept: " in message
                assert not [name for name in files(run_dir) if "/." in name]
                checkpoints = Checkpoints(run_dir / "bicubic/checkpoints", keep=1)
                newest = max(checkpoints.steps(), default=None)
                assert ("nothing" if newest is None else f"step {newest}") in message
                assert checkpoints.newest() == newest  # and it is whole
            resize(disk, 2**26)
            train(config, run_dir, stages=["bicubic"], progress=False)
            found = load_file(run_dir / "bicubic/weights.safetensors")
            assert all((found[key] == expected[key]).all() for key in expected)
            shutil.rmtree(run_dir)
    assert stopped >= 4
    assert "Traceback" not in capfd.readouterr().err


def test_a_read_only_run_directory_is_told(toy, tmp_path):
    config = tmp_path / "toy.yaml"
    config.write_text(toy.to_yaml())
    with disk_of(tmp_path / "disk", "4m") as disk:
        train(toy, disk / "old", stages=["bicubic"], progress=False)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        command = ["train", "--config", config, "--stage", "bicubic"]
        result = run(*command, "--run-dir", disk / "new")
        assert result.exit_code == 2
        assert result.stderr.endswith(
            f"mrda: the run directory {disk / 'new'} can't be created: the disk is read-only\n"
        )
        result = run(*command, "--run-dir", disk / "old")
        assert result.exit_code == 1
        assert "config.yaml: the disk is read-only; kept: the weights of stage 'bicubic'; correct that" in result.stderr


def resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
