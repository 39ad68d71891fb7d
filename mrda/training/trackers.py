# SPDX-License-Identifier: Apache-2.0
"""Accelerate's trackers (`train.tracker`): programs and services that show a training's curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from mrda.core.packages import is_installed
from mrda.training.checkpoints import RunRefusedError

TENSORBOARD = "tensorboard"
PROJECT = "mrda"
"""Name of the project, or experiment, in a tracker."""


def check_tracker(name: str) -> None:
    """Check that Accelerate has a tracker of this name, and that its package is installed.

    Raises:
        ValueError: it has none, or the package is missing.
    """
    if name not in LOGGER_TYPE_TO_CLASS:
        raise ValueError(f"train.tracker is {name!r}, but must be one of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
    if not is_installed(name):  # all are named as their packages
        raise ValueError(
            f"train.tracker is {name}, whose package is not installed: pip install {name.replace('_', '-')}, or leave "
            "train.tracker out"
        )


def start_tracker(name: str, folder: Path, start: int) -> GeneralTracker:
    """Start the tracker of a stage.

    Args:
        name: name of the tracker.
        folder: the stage's folder, below that of the run; both name the stage in the tracker where it has names.
        start: number of finished steps; TensorBoard drops later ones of an interrupted run.

    Raises:
        RunRefusedError: (a ValueError) the tracker does not start, e.g. for want of a login.
        OSError: TensorBoard's file can't be written.
    """
    kind = LOGGER_TYPE_TO_CLASS[name]
    if name == TENSORBOARD:
        tracker = kind(TENSORBOARD, folder, purge_step=start + 1)
        tracker.start()
        return tracker
    label, options = f"{folder.parent.name} {folder.name}", {}
    if name in ("wandb", "trackio"):
        options["name"] = label
    elif name == "mlflow":
        options["run_name"] = label
    place: tuple[Any, ...] = (folder,) if kind.requires_logging_directory else ()
    try:
        tracker = kind(PROJECT, *place, **options)
        tracker.start()
    except Exception as error:
        raise RunRefusedError(f"the tracker {name} (train.tracker) did not start: {error}") from error
    return tracker


def log_pictures(tracker: GeneralTracker, pictures: Mapping[str, np.ndarray], step: int) -> None:
    """Log pictures (3, H, W) uint8 by their names, if the tracker takes pictures."""
    if not pictures or not hasattr(tracker, "log_images"):
        return
    images = {name: picture.transpose(1, 2, 0) for name, picture in pictures.items()}
    if tracker.name not in ("aim", "clearml"):  # the others take batches
        images = {name: picture[None] for name, picture in images.items()}
    options = {"dataformats": "NHWC"} if tracker.name == TENSORBOARD else {}
    tracker.log_images(images, step=step, **options)
