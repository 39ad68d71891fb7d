"""Curves go to the tracker that `train.tracker` names; a stand-in takes the place of a service."""

import numpy as np
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from mrda.config.load import load_config
from mrda.training import Run, RunRefusedError, trackers


class Stub(GeneralTracker):
    """Keeps what it is told."""

    name = "trackio"
    requires_logging_directory = False
    told: list

    def __init__(self, run_name, **options):
        super().__init__()
        self.told = [("project", run_name, options)]
        runs.append(self)

    def start(self):
        self.told.append("started")

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        raise AssertionError

    def log(self, values, step=None):
        self.told.append((step, values))

    def log_images(self, values, step=None):
        self.told.append((step, {name: image.shape for name, image in values.items()}))

    def finish(self):
        self.told.append("finished")


runs: list[Stub] = []


@pytest.fixture
def stub(monkeypatch):
    runs.clear()
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "trackio", Stub)
    monkeypatch.setattr(trackers, "is_installed", lambda name: True)


def test_curves_and_pictures_go_to_the_tracker(stub, photo, tmp_path):
    changes = [f"data.sources=['{photo}']", f"validation.sources=['{photo}']", "validation.crop=30"]
    changes += ["train.tracker=trackio", "validation.every=2", "validation.conditions=1"]
    Run(load_config("toy", changes), tmp_path / "run", stages=["bicubic"], progress=False).train()
    (tracker,) = runs
    assert tracker.told[:2] == [("project", "mrda", {"name": "run bicubic"}), "started"]
    assert tracker.told[-1] == "finished"
    logged = list(tracker.told[2:-1])
    assert [step for step, values in logged if "loss" in values] == [2, 4]
    assert [step for step, values in logged if "validation/psnr_y" in values] == [2, 4]
    assert (4, {"validation/waves": (1, 30, 90, 3)}) in logged
    assert (tmp_path / "run" / "bicubic" / "log.jsonl").is_file()
    assert not (tmp_path / "run" / "bicubic" / "tensorboard").exists()


def test_an_unknown_tracker_is_refused(toy, changed, tmp_path):
    with pytest.raises(RunRefusedError, match=r"train.tracker is 'wand', but must be one of aim, .* wandb"):
        Run(changed(toy, train={"tracker": "wand"}), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_named(toy, changed, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "is_installed", lambda name: False)
    with pytest.raises(RunRefusedError, match=r"comet_ml, whose package is not installed: pip install comet-ml"):
        Run(changed(toy, train={"tracker": "comet_ml"}), tmp_path / "run", progress=False)


def test_a_tracker_without_pictures_gets_none():
    class Plain:
        name = "mlflow"

    trackers.log_pictures(Plain(), {"a": np.zeros((3, 2, 2), np.uint8)}, 1)
