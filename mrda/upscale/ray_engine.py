# SPDX-License-Identifier: Apache-2.0
"""Upscales photos on a cluster: Ray Data hands them to workers, each of which runs the local engine.

Ray moves names and outcomes only. A worker reads its photos and writes their results itself, so what exists in the
output folder is the whole state of a run: a photo whose result was not reported, because its worker died, is looked for
there, and computed again if it is missing.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mrda.core.faults import reason
from mrda.core.progress import NoProgress, Progress
from mrda.upscale.auto import AutoUpscaler
from mrda.upscale.batch import Result, upscale_photos
from mrda.upscale.finding import has_no_path
from mrda.upscale.jobs import Job
from mrda.upscale.manifest import origin
from mrda.upscale.results import Results
from mrda.upscale.stored_files import StoredFiles
from mrda.upscale.stores import is_stored, without_query
from mrda.upscale.upscaler import Upscaler

_log = logging.getLogger(__name__)

TASK = 32
"""Photos of a task, at most."""
TOGETHER = 16
"""Small photos of one size that share a forward pass, at most."""
ATTEMPTS = 3
"""Workers that may die of a photo before it counts as failed; only the first of them has others with it."""
CORES = 4
"""Cores of a worker without a GPU, if its node has as many."""
OBJECT_STORE = 128 * 2**20
"""Bytes of Ray's object store in a cluster that is started here: names take little."""


class ClusterError(ValueError):
    """The cluster can't do the work; the message is one sentence."""


@dataclass(frozen=True)
class Task:
    """The options of a run, the same for all workers.

    Attributes:
        network: the network; None chooses the package's weights for each photo.
        options: the arguments of the upscaler.
        output: the output folder; the empty path if it is in a store.
        store: URI of the output folder in a store, with its options.
        places: URIs below which photos are, with their options.
        writing: arguments of `upscale_photos`.
        cores: cores that a worker computes on.
        again: True if workers have had the photos before, and died.
    """

    network: torch.nn.Module | None
    options: dict[str, Any]
    output: Path
    store: str | None
    places: tuple[str, ...]
    writing: dict[str, Any]
    cores: int = 1
    again: bool = False


class Worker:
    """The actor: an upscaler, which stays loaded, and the local engine around it.

    Args:
        task: the options of the run.
    """

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(task.cores)
        self._task = task
        self._told: list[str] = []
        options = {**task.options, "notify": self._told.append}
        network: Any = task.network
        self._upscaler = AutoUpscaler(**options) if network is None else Upscaler(network, **options)
        self._files = StoredFiles(task.places, task.store)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Upscale the photos of a block.

        Args:
            batch: columns of the block, see `_rows`.

        Returns:
            Their numbers, and for each the pickled outcome: state, reason, notices, choice, and what the upscaler told.
        """
        jobs = [self._job(*row) for row in zip(batch["source"], batch["name"], batch["format"], strict=True)]
        done = [False] * len(jobs)
        if self._task.again:
            # A worker that died may have done some; a file that existed before is no result of this run.
            with ThreadPoolExecutor(self._task.writing["workers"]) as pool:
                there = pool.map(self._files.exists, jobs)
                done = [here and not older for here, older in zip(there, batch["older"], strict=True)]
        results = upscale_photos(
            self._upscaler,
            [job for job, ready in zip(jobs, done, strict=True) if not ready],
            together=TOGETHER,
            files=self._files,
            **self._task.writing,
        )
        outcomes = []
        for job, ready in zip(jobs, done, strict=True):
            result = Result(job, "done") if ready else next(results)
            told = [self._told.pop(0) for _ in range(len(self._told))]
            outcomes.append(pickle.dumps((result.state, result.reason, result.notices, result.choice, told)))
        return {"number": list(batch["number"]), "outcome": outcomes}

    def _job(self, source: bytes, name: bytes, format: str) -> Job:
        store = None if self._task.store is None else without_query(self._task.store)
        return Job(os.fsdecode(source), self._task.output, Path(os.fsdecode(name)), str(format), store=store)


class Run:
    """An upscaling on the nodes of a Ray cluster, which continues by what exists in the output folder.

    Args:
        upscaler: the upscaler, whose network the workers get.
        options: the arguments that it was made with.
        jobs: from `mrda.upscale.jobs.plan`.
        places: what the photos were found by: those that are URIs are read by their options.
        output: the output folder, or its URI in a store.
        scale: enlargement of the results; None is the upscaler's own scale.
        skip_existing: take results that no run has recorded for results of this one.

    Raises:
        ValueError: the output folder can't be listed, or holds results of other weights, strength or scale.
    """

    def __init__(
        self,
        upscaler: Upscaler | AutoUpscaler,
        options: dict[str, Any],
        jobs: Sequence[Job],
        places: Sequence[str],
        output: str,
        *,
        scale: float | None = None,
        skip_existing: bool = False,
    ) -> None:
        self._jobs = jobs
        self._origin = origin(upscaler, scale)
        self._results = Results(output)
        self._results.check(self._origin, jobs, skip_existing)
        stored = is_stored(output)
        self._task = Task(
            network=None if isinstance(upscaler, AutoUpscaler) else upscaler.network,
            options=options,
            output=Path() if stored else Path(os.path.abspath(output)),
            store=output if stored else None,
            places=tuple(filter(is_stored, places)),
            writing={"scale": scale},
        )

    def has(self, job: Job) -> bool:
        """Check that a job was done before."""
        return self._results.has(job)

    def upscale(
        self,
        writing: dict[str, Any],
        *,
        workers: int | None = None,
        cores: int | None = None,
        device: str | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Result]:
        """Upscale the photos into files, with the outcomes of `mrda.upscale.batch.upscale_photos`.

        The cluster is the one that the environment variable RAY_ADDRESS names or that runs on this machine; otherwise
        one is started here for the run. All nodes must have this package, and see folders under the same names.

        Args:
            writing: the arguments workers, quality, lossless and max_pixels of `upscale_photos`.
            workers: number of workers; None is one for each GPU, or for so many cores, of the nodes that there are or
                come.
            cores: cores of a worker without GPU; None is `CORES`.
            device: "cpu" or "cuda"; None is "cuda" if the cluster has a GPU.
            progress: receives photos.

        Yields:
            The outcome of each job once, as they become known.

        Raises:
            ClusterError: there is no such cluster, it has not what a worker needs, or no worker can start.
            OSError: the output folder can't be written to.
        """
        left: dict[int, Job] = {}
        with (progress or NoProgress()).task("upscaling", len(self._jobs)) as bar:
            for number, job in enumerate(self._jobs):
                if job.fault is None and not self.has(job):
                    left[number] = job
                    continue
                bar.advance()
                yield Result(job, "skipped") if job.fault is None else Result(job, "failed", job.fault)
            self._results.record(self._origin)
            for result in self._on_cluster(left, writing, workers, cores, device) if left else ():
                bar.advance()
                yield result

    def _on_cluster(
        self, left: dict[int, Job], writing: dict[str, Any], workers: int | None, cores: int | None, device: str | None
    ) -> Iterator[Result]:
        with _cluster(), _Faults() as faults:
            demand, fitting = _demand(cores, device)
            on_gpu = "num_gpus" in demand
            task = replace(
                self._task,
                options={**self._task.options, "device": "cuda" if on_gpu else "cpu"},
                cores=int(demand["num_cpus"]),
                writing={**self._task.writing, **writing},
            )
            for attempt in range(ATTEMPTS):
                alone = attempt > 0
                pool = _pool(workers, fitting, calls=2 if on_gpu and not alone else 1, ahead=not alone)
                size = 1 if alone else max(1, min(TASK, len(left) // (4 * (workers or fitting))))
                task = replace(task, again=alone)
                for number, result, told in _outcomes(task, left, self._results, size, pool, demand):
                    del left[number]
                    for message in told:
                        faults.tell(message)
                    yield result
                if not left:
                    return
        for job in left.values():
            why = f"{ATTEMPTS} workers died of it, most likely because memory ran out"
            yield Result(job, "failed", f"cannot upscale {job.source}: {why}")


def _outcomes(
    task: Task, left: dict[int, Job], results: Results, size: int, pool: Any, demand: dict[str, float]
) -> Iterator[tuple[int, Result, list[str]]]:
    """Have blocks of so many photos upscaled, each once; yield those outcomes that come back, and what was told."""
    import ray
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    rows = _rows(left, results)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)  # max_restarts has no other place until Ray 2.64
        dataset = ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / size)).map_batches(
            Worker, fn_constructor_args=(task,), compute=pool, batch_size=None, max_restarts=0, **demand
        )
    came = False
    try:
        for row in dataset.iter_rows():
            number, came = int(row["number"]), True
            if number in left:
                state, why, notices, choice, told = pickle.loads(row["outcome"])
                yield number, Result(left[number], state, why, notices, choice), told
    except ray.exceptions.RayError as error:
        if not came:
            raise ClusterError(f"no worker could start: {_cause(error)}") from error


def _rows(left: dict[int, Job], results: Results) -> list[dict[str, Any]]:
    """Return what a worker has to know of photos.

    The columns: number of the job; source and name, in the file system's bytes; format; older, which is true if a file
    of its result's name existed before this run.
    """
    return [
        {
            "number": number,
            "source": os.fsencode(job.source if has_no_path(job.source) else os.path.abspath(job.source)),
            "name": os.fsencode(job.name),
            "format": job.format,
            "older": results.exists(job),
        }
        for number, job in left.items()
    ]


def _pool(workers: int | None, fitting: int, calls: int, ahead: bool) -> Any:
    """Return a pool of workers, which grows with the cluster if their number is not given.

    Args:
        workers: their number, if it is given.
        fitting: the number that the cluster has room for now.
        calls: blocks that a worker works on at a time, one of them reading while the other computes.
        ahead: send a worker its next block before it is free; if it dies, that one has to be sent again.
    """
    from ray.data import ActorPoolStrategy

    return ActorPoolStrategy(
        min_size=workers or 1,
        initial_size=workers or fitting,
        max_size=workers,
        max_tasks_in_flight_per_actor=calls + ahead,
        max_concurrent_calls_per_actor=calls,
        enable_true_multi_threading=True,
    )


def _demand(cores: int | None, device: str | None) -> tuple[dict[str, float], int]:
    """Return what Ray is to reserve for a worker, and the number of workers that the cluster has room for now."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if device == "cuda" and not gpus:
        raise ClusterError("--device cuda can't be used: no node of the cluster has a GPU")
    if gpus and device != "cpu":
        return {"num_gpus": 1, "num_cpus": 1}, gpus
    most = int(max(node.get("CPU", 0) for node in nodes))
    if not most or (cores is not None and cores > most):
        raise ClusterError(f"--cores is {cores or CORES}, but no node of the cluster has more than {most} cores")
    cores = min(CORES, most) if cores is None else cores
    return {"num_cpus": cores}, int(sum(node.get("CPU", 0) // cores for node in nodes))


@contextmanager
def _cluster() -> Iterator[None]:
    """Connect to the cluster, or start one on this machine, while the context is open."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    import ray
    import ray.data

    if ray.is_initialized():
        _configure()
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init("auto", **quiet)
    except ConnectionError as error:
        if "RAY_ADDRESS" in os.environ:
            raise ClusterError(
                f"no Ray cluster answers at RAY_ADDRESS ({os.environ['RAY_ADDRESS']}): start it, and set "
                "RAY_AUTH_MODE=token if it wants a token"
            ) from error
        try:
            ray.init("local", object_store_memory=OBJECT_STORE, include_dashboard=False, **quiet)
        except Exception as error:  # which is the class of what Ray raises
            raise ClusterError(f"Ray can't be started here: {reason(error)}") from error
    _configure()
    try:
        yield
    finally:
        ray.shutdown()


def _configure() -> None:
    """Have Ray Data go on when a worker dies; its photos have another attempt."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    context.max_consecutive_actor_init_deaths = 1


class _Faults(logging.Handler):
    """Tells each fault of a worker once, in a sentence, in place of Ray Data's log on the terminal."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._told: set[str] = set()
        self._logger = logging.getLogger("ray.data")

    def __enter__(self) -> _Faults:
        self._kept, self._logger.handlers = self._logger.handlers, [self]
        self._propagated, self._logger.propagate = self._logger.propagate, False
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.handlers, self._logger.propagate = self._kept, self._propagated

    def emit(self, record: logging.LogRecord) -> None:
        """Tell the reason of an error that Ray Data ignores."""
        if record.exc_info and record.exc_info[1] is not None:
            self.tell(f"a worker failed, and its photos are tried again: {_cause(record.exc_info[1])}")

    def tell(self, message: str) -> None:
        """Log a message as a warning, unless it has been."""
        if message not in self._told:
            self._told.add(message)
            _log.warning(message)


def _cause(error: BaseException) -> str:
    """Return the reason of an error that Ray has wrapped: in its attribute cause, or as the last line of its text."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return reason(cause.__cause__ or cause)
    text = str(error).strip()
    if "creation task" in text:
        return text.splitlines()[-1].strip().partition(": ")[2] or reason(error)
    return reason(error)
