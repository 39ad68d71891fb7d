import math

from benchmarks.timing import MAX_CALLS, EventClock, interleaved


def test_times_are_medians_over_rounds_and_the_warm_up_is_left_out():
    times = {
        "long": iter([9000.0, 500.0, 700.0, 400.0]),
        "short": iter([9000.0, 50.0, 3.0, 50.0, 1.0, 50.0, 2.0]),  # every other call is the first of its turn
    }
    calls = []

    def clock(run):
        name = run()
        calls.append(name)
        return next(times[name])

    timings = interleaved({"long": lambda: "long", "short": lambda: "short"}, clock, seconds=0.0, min_rounds=3, rest=0)
    assert timings == {"long": (500.0, 3), "short": (2.0, 3)}
    rounds = [sorted(calls[i : i + 3]) for i in range(2, len(calls), 3)]
    assert rounds == [["long", "short", "short"]] * 3


def test_one_round_is_enough_where_the_time_is_over():
    limits = {"seconds": 0.0, "min_rounds": 5, "rest": 0}
    assert interleaved({"a": lambda: None}, lambda run: 1.0, max_seconds=0.0, **limits) == {"a": (1.0, 1)}
    assert interleaved({"a": lambda: None}, lambda run: 1.0, max_seconds=math.inf, **limits) == {"a": (1.0, 5)}


class FakeGpu:
    """A stream on which a call takes one and a half milliseconds, or whatever `ms` says."""

    def __init__(self, ms=1.5):
        self.ms, self.now, self.calls, self.log = ms, 0.0, 0, []

    def run(self):
        self.now += self.ms
        self.calls += 1

    def event(self):
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, gpu):
        self.gpu, self.time, self.is_done = gpu, None, False

    def record(self):
        self.time = self.gpu.now

    def synchronize(self):
        assert self.time is not None
        self.is_done = True

    def elapsed_time(self, end):
        assert end.is_done, "asked for the time of what may be still to come"
        return end.time - self.time


def test_event_clock_gives_the_milliseconds_of_one_call_and_repeats_short_ones():
    gpu = FakeGpu(ms=0.5)
    clock = EventClock(gpu.event)
    run = gpu.run
    assert clock(run) == 0.5
    assert gpu.calls == 1  # how long it takes was not known
    assert clock(run) == 0.5
    assert gpu.calls == 1 + 4  # fill 2 ms
    gpu.ms = 5.0
    assert clock(run) == 5.0
    assert gpu.calls == 1 + 4 + 4
    assert clock(run) == 5.0
    assert gpu.calls == 1 + 4 + 4 + 1


def test_event_clock_knows_calls_apart_and_repeats_no_call_without_end():
    gpu = FakeGpu(ms=0.0)
    clock = EventClock(gpu.event)
    nothing, other = gpu.run, lambda: gpu.run()
    clock(nothing)
    clock(nothing)
    assert gpu.calls == 1 + MAX_CALLS
    clock(other)
    assert gpu.calls == 1 + MAX_CALLS + 1
