# SPDX-License-Identifier: Apache-2.0
"""The record of finished photos, from which an interrupted run continues."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from mrda.core.faults import reason
from mrda.upscale.auto import AutoUpscaler
from mrda.upscale.choice import PURPOSES
from mrda.upscale.jobs import Job
from mrda.upscale.upscaler import Upscaler
from mrda.upscale.weights import BUNDLED


class Manifest:
    """Record of finished jobs, one JSON line each, from which an interrupted run continues.

    A job counts as finished only with the same weights and scale. Several processes may share the file: each line is
    appended by one write.

    Args:
        path: the file; created when the first job is finished.
        upscaler: the upscaler of this run.
        scale: enlargement of the results; None is the upscaler's own scale.

    Raises:
        ValueError: the file is not a manifest or can't be read.
    """

    def __init__(self, path: Path, upscaler: Upscaler | AutoUpscaler, scale: float | None = None) -> None:
        self.path = path
        self.failed = False
        """True if a finished job could not be recorded."""
        self._how = origin(upscaler, scale)
        self._done: dict[str, dict[str, Any]] = {}  # by target; the last line counts
        text = _content(path)
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self._done[os.fspath(entry["target"])] = {key: entry[key] for key in ("source", "target", *self._how)}
            except (ValueError, TypeError, KeyError):
                continue  # a killed process may have left half a line
        if "\n" in text and not self._done:
            raise ValueError(f"{path} is not a manifest of `mrda upscale`: name another file")
        self._cut = bool(text) and not text.endswith("\n")
        self._writing = threading.Lock()

    @property
    def targets(self) -> Collection[str]:
        """Real paths of all results, with any weights and scale."""
        folders = {folder: os.path.realpath(folder) for folder in map(os.path.dirname, self._done)}
        return {os.path.join(folders[os.path.dirname(target)], os.path.basename(target)) for target in self._done}

    def has(self, job: Job) -> bool:
        """Check that a job is finished and its result still exists."""
        entry = self._entry(job)
        return self._done.get(entry["target"]) == entry and os.path.isfile(job.target)

    def add(self, job: Job) -> str | None:
        """Record a finished job; the first time that this fails, return the reason."""
        line = json.dumps(self._entry(job)) + "\n"
        with self._writing:
            try:
                _append(self.path, ("\n" * self._cut + line).encode())
                self._cut = False
            except OSError as error:
                self._cut = True
                if not self.failed:
                    self.failed = True
                    return f"{self.path} can't be written, so finished photos are not recorded: {reason(error)}"
        return None

    def _entry(self, job: Job) -> dict[str, Any]:
        return {"source": str(Path(job.source).absolute()), "target": str(job.target.absolute()), **self._how}


def _append(path: Path, line: bytes) -> None:
    """Append a line by one write, which other processes' lines can't divide; half a line is removed again."""
    with open(path, "ab", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        written = file.write(line)
        if written < len(line):  # the disk is full, which the next write says
            try:
                file.write(line[written:])
            except OSError:
                if os.fstat(file.fileno()).st_size == before + written:
                    file.truncate(before)
                raise


def _content(path: Path) -> str:
    """Read a manifest's text; it is empty if there is no such file."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} can't be a manifest, because it is not a regular file: name another one")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a manifest of `mrda upscale`: name another file") from None
    except OSError as error:
        raise ValueError(f"the manifest {path} can't be read: {reason(error)}") from None


def origin(upscaler: Upscaler | AutoUpscaler, scale: float | None = None) -> dict[str, Any]:
    """Return what results depend on besides their photos: a digest of the weights' values, and the scale.

    The digest differs between strengths, whose values differ.

    Args:
        upscaler: the upscaler.
        scale: enlargement of the results; None is the upscaler's own scale.
    """
    return {"weights": _digest(upscaler), "scale": upscaler.scale if scale is None else scale}


def _digest(upscaler: Upscaler | AutoUpscaler) -> str:
    """Return a hash of the weights; of those that the photos choose among, of their files' hashes and their limits."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(upscaler, AutoUpscaler):
        limits = {name: (use.noise, use.jpeg_quality, use.strength) for name, use in PURPOSES.items()}
        digest.update(json.dumps([BUNDLED, limits], sort_keys=True).encode())
        return digest.hexdigest()
    for name, value in sorted(upscaler.network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
