import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from mrda.data.prefetch import Prefetcher

WAIT = 10  # seconds after which something that should have happened has not


def produce(key: int) -> torch.Tensor:
    return torch.randint(1000, (3,), generator=torch.Generator().manual_seed(key))


class Gate:
    """Makes tensors, each only once it is let through; counts what was begun."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.through = threading.Semaphore(0)
        self.keys: list[int] = []
        self.waited_in_vain = False

    def __call__(self, key: int) -> torch.Tensor:
        self.keys.append(key)
        self.begun.release()
        self.waited_in_vain |= not self.through.acquire(timeout=WAIT)
        return torch.tensor(key)


@pytest.mark.parametrize("depth", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_it_gives_what_a_plain_loop_gives(depth: int, count: int) -> None:
    pairs = list(Prefetcher(produce, range(count), depth))
    assert [key for key, _ in pairs] == list(range(count))
    assert all(torch.equal(tensor, produce(key)) for key, tensor in pairs)


def test_keys_may_be_anything_and_endless() -> None:
    keys = ((step, micro) for step in itertools.count() for micro in range(2))
    got = []
    for key, _ in Prefetcher(lambda key: produce(10 * key[0] + key[1]), keys, depth=3):
        got.append(key)
        if len(got) == 5:
            break
    assert got == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]


def test_it_works_ahead_in_one_other_thread_but_no_further_than_depth() -> None:
    threads = set()
    made = threading.Semaphore(0)
    asked = []

    def make(key: int) -> torch.Tensor:
        threads.add(threading.current_thread())
        made.release()
        return produce(key)

    def keys() -> Iterator[int]:
        for key in itertools.count():
            asked.append(key)
            yield key

    for i, _ in enumerate(Prefetcher(make, keys(), depth=4)):
        for _ in range(5 if i == 0 else 1):  # while this one is in hand, four more are made
            assert made.acquire(timeout=WAIT)
        assert len(asked) == i + 5
        if i == 2:
            break
    assert not made.acquire(blocking=False)
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_errors_come_out_at_their_key() -> None:
    def make(key: int) -> torch.Tensor:
        if key == 3:
            raise ValueError("the disk is gone")
        return produce(key)

    pairs = iter(Prefetcher(make, range(9), depth=4))
    assert [next(pairs)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the disk is gone"):
        next(pairs)


def test_an_error_of_the_keys_comes_out_too() -> None:
    def keys() -> Iterator[int]:
        yield 0
        raise ValueError("no such key")

    with pytest.raises(ValueError, match="no such key"):
        list(Prefetcher(produce, keys(), depth=4))


@pytest.mark.parametrize("leave", ["break", "raise", "interrupt", "with"])
def test_leaving_never_waits_and_stops_the_work(leave: str) -> None:
    gate = Gate()
    gate.through.release()  # the first one gets through, the second is stuck until the end of this test
    prefetcher = Prefetcher(gate, itertools.count(), depth=4)

    def consume() -> None:
        for _ in prefetcher:
            for _ in range(2):
                assert gate.begun.acquire(timeout=WAIT)
            if leave == "break":
                break
            raise KeyboardInterrupt if leave == "interrupt" else ValueError(leave)

    if leave == "break":
        consume()
    elif leave == "with":
        with prefetcher:
            pairs = iter(prefetcher)  # an iterator that outlives the block
            next(pairs)
            for _ in range(2):
                assert gate.begun.acquire(timeout=WAIT)
    else:
        with pytest.raises((ValueError, KeyboardInterrupt)):
            consume()
    for _ in range(9):
        gate.through.release()
    prefetcher._executor.shutdown(wait=True)
    assert not gate.waited_in_vain
    assert gate.keys == [0, 1]
    prefetcher.close()  # may be said again


def test_waiting_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count()  # a clock that ticks at every look
    monkeypatch.setattr("mrda.data.prefetch.time.perf_counter", lambda: float(next(now)))
    prefetcher = Prefetcher(produce, range(5))
    assert prefetcher.waited == 0
    list(prefetcher)
    assert prefetcher.waited == 5


def test_an_abandoned_one_does_not_keep_python_alive() -> None:
    code = (
        "import itertools, torch; from mrda.data.prefetch import Prefetcher\n"
        "for key, _ in Prefetcher(lambda key: torch.zeros(9), itertools.count()):\n"
        "    if key == 3: raise SystemExit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 7


def test_pinning(monkeypatch: pytest.MonkeyPatch) -> None:
    devices, pinned = [], []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: devices.append((device, threading.current_thread().name))
    )
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    list(Prefetcher(produce, range(4)))
    assert not pinned
    list(Prefetcher(produce, range(4), pin_memory=True))
    assert len(pinned) == 4
    assert len(devices) == 1
    assert devices[0][0] == 3
    assert devices[0][1].startswith("prefetch")


@pytest.mark.gpu
def test_pinned_memory_on_a_gpu() -> None:
    for key, tensor in Prefetcher(produce, range(3), pin_memory=True):
        assert tensor.is_pinned()
        assert torch.equal(tensor, produce(key))


def test_depth_must_be_positive() -> None:
    with pytest.raises(ValueError, match="depth is 0, but must be at least 1"):
        Prefetcher(produce, [], depth=0)
