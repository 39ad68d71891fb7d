"""The particulars of the Triton backend: tiles smaller than an image, 64-bit offsets, the choice of tiles, its file."""

import json
import math
import subprocess
import sys
import warnings

import pytest
import torch
from budget import RdaBudget, dynamic_backward, dynamic_forward
from calls import DTYPES, Call

from mrda_kernels import dispatch
from mrda_kernels.backends import triton as backend
from mrda_kernels.backends import triton_configs as configs
from mrda_kernels.backends.triton_configs import FUSED_MASK, GIVEN_LOGITS, NO_MASK, Config, Measured, Problem
from mrda_kernels.call import RdaCall

interpreted = pytest.mark.skipif(backend.why_not("cpu") is not None, reason=str(backend.why_not("cpu")))


def check(call, config=None, wide=False):
    tensors, grad_output = call.tensors(), call.grad_output()
    budget = RdaBudget(*tensors, *call.options, exact_z=call.dyadic)
    launch = RdaCall(*tensors, *call.options)
    budget.forward().check(backend._forward(launch, config, wide), "output")
    for i, (grad, bounded) in enumerate(
        zip(backend._backward(grad_output, launch, config, wide), budget.backward(grad_output), strict=True)
    ):
        bounded.check(grad, f"gradient {i}")

    bare = RdaCall.bare(*tensors[:2], call.negative_slope)
    dynamic_forward(*bare[:2], call.negative_slope).check(backend._forward(bare, config, wide), "bare output")
    exact = dynamic_backward(grad_output, *tensors[:2])
    for i, (grad, bounded) in enumerate(zip(backend._backward(grad_output, bare, config, wide), exact, strict=True)):
        bounded.check(grad, f"bare gradient {i}")


# ---- tiles ---------------------------------------------------------------------------------------------------------


@interpreted
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_an_image_of_many_tiles(layout, kernel_size):
    check(Call((1, 3, 5, 9), kernel_size, layout=layout, output_negative_slope=0.1), Config(8, 4, 4, rows=4))


@interpreted
@pytest.mark.parametrize("channels", [1, 3, 33])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_several_blocks_of_channels(channels, layout):
    call = Call((2, channels, 5, 6), layout=layout, full_mask=True, dyadic=False)
    if channels == 1:  # one map, and all of its channels in a tile that is wider than they are
        call = Call((2, 1, 5, 6), layout=layout, dyadic=False)
    check(call, Config(16, 8, 4, rows=8))


@interpreted
@pytest.mark.parametrize("channels", [129, 257])
def test_one_map_of_more_channels_than_a_tile_sums(channels):
    assert configs.mask_mode("backward", channels, 3, 1, "float32") == GIVEN_LOGITS
    check(Call((1, channels, 4, 5), layout="channels_last", dyadic=False))


@interpreted
@pytest.mark.parametrize("slopes", [(-0.5, 2.0), (1.5, -1.0)])
def test_slopes_beyond_0_and_1(slopes):
    check(Call((2, 3, 6, 7), negative_slope=slopes[0], output_negative_slope=slopes[1]))


@interpreted
def test_runs_are_the_same_to_the_bit():
    call = Call((2, 5, 19, 33), dyadic=False, layout="channels_last")
    arguments = RdaCall(*call.tensors(), *call.options)
    first, second = (backend.backward(call.grad_output(), arguments) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# ---- 64-bit offsets ------------------------------------------------------------------------------------------------


def meta(shape, strides=None):
    tensor = torch.empty(shape, device="meta", dtype=torch.bfloat16)
    return tensor if strides is None else tensor.as_strided(shape, strides)


@pytest.mark.parametrize(
    ("tensor", "wide"),
    [
        (meta((1, 1, 2**15, 2**16)), False),  # the last offset is 2^31 - 1
        (meta((1, 1, 2**15 + 1, 2**16)), True),
        (meta((2, 1, 1, 1), (2**31 - 1, 1, 1, 1)), False),
        (meta((2, 1, 1, 1), (2**31, 1, 1, 1)), True),
        (meta((1, 1, 1, 1), (2**40, 2**40, 2**40, 2**40)), False),  # a stride that nobody takes
        (meta((2**20, 64, 64, 64), (0, 0, 0, 0)), False),
        (meta((2, 2, 2, 2), (2**30, 2**29, 2**29, 0)), True),  # the sum of all, 2^31
    ],
    ids=str,
)
def test_offsets_are_wide_where_an_element_needs_it(tensor, wide):
    assert backend.needs_wide_offsets(tensor) is wide
    assert backend.needs_wide_offsets(meta((1,)), None, tensor) is wide


class Recorded(Exception):
    """Carries the arguments of a launch."""


@pytest.mark.parametrize("part", ["input", "output", "grad_output", "mask_weight"])
def test_every_large_tensor_makes_the_offsets_wide(monkeypatch, part):
    class Recorder:
        def __getitem__(self, grid):
            def launch(*arguments, **options):
                raise Recorded(arguments[-1])

            return launch

    class Kernels:
        forward = backward = Recorder()

    monkeypatch.setattr(backend, "_kernels", lambda: Kernels)
    shape = (2, 4, 8, 8)
    small, large = meta(shape), meta(shape, (2**31, 64, 8, 1))
    if part == "output":  # larger than an input that repeats itself
        shape = (2**23 + 1, 4, 8, 8)
        small = meta(shape, (0, 0, 0, 0))
        large = small
    input = small if part in {"grad_output", "mask_weight"} else large
    weight = meta((*shape[:2], 1, 1), (0, 0, 0, 0))
    mask_weight = meta((1, 4, 1, 1), (1, 2**30, 1, 1) if part == "mask_weight" else None)
    pytest.importorskip("triton")
    config = Config(8, 4, 4)
    call = RdaCall(input, weight, mask_weight)
    with pytest.raises(Recorded) as recorded:
        _ = backend._backward(large, call, config) if part == "grad_output" else backend._forward(call, config)
    assert recorded.value.args == (True,)


@interpreted
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "step2"])
@pytest.mark.parametrize("full_mask", [False, True])
def test_wide_offsets_find_the_same_elements(layout, full_mask):
    check(Call((2, 3, 7, 9), layout=layout, grad_layout="expanded", full_mask=full_mask), wide=True)


# ---- the choice of a tile ------------------------------------------------------------------------------------------

PROBLEM = Problem("forward", 64, 3, FUSED_MASK, True, "bfloat16")


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("channels", [1, 3, 33, 64, 130, 513])
@pytest.mark.parametrize("masks", ["none", "one", "all"])
def test_shipped_tiles_hold_what_a_kernel_needs(direction, channels, masks):
    count = {"none": 0, "one": 1, "all": channels}[masks]
    for kernel_size in (1, 3, 5, 7):
        for channels_last in (False, True):
            for dtype in DTYPES:
                name = str(dtype).removeprefix("torch.")
                mode = configs.mask_mode(direction, channels, kernel_size, count, name)
                assert (mode == NO_MASK) == (count == 0)
                problem = Problem(direction, channels, kernel_size, mode, channels_last, name)
                for config in (*configs.candidates(problem), configs.for_interpreter(problem, 1)):
                    for size in (config.columns, config.channels, config.warps, config.rows):
                        assert size > 0
                        assert size & (size - 1) == 0
                    assert config.columns > 2 * (kernel_size // 2)  # some are left beside those for the neighbours
                    assert config.warps <= 16
                    assert mode != FUSED_MASK or config.channels >= channels
                assert configs.candidates(problem)[0] == configs.shipped(problem)


def test_small_images_are_cut_into_more_programs():
    config = Config(16, 64, 4, rows=32)
    assert configs.rows_for(config, 360, 16 * 40) == 32
    assert configs.rows_for(config, 64, 4) == 8


def timer(fastest):
    seen = []

    def seconds(config):
        seen.append(config)
        return 1.0 if config == fastest else math.inf if len(seen) == 2 else 2.0

    return seconds, seen


def test_a_measured_tile_is_kept_on_disk(tmp_path):
    path = tmp_path / "deep" / "configs.json"
    fastest = configs.candidates(PROBLEM)[-1]
    seconds, seen = timer(fastest)
    measured = Measured(path, "GPU A")
    assert measured.get(PROBLEM) is None
    assert measured.measure(PROBLEM, seconds) == fastest
    assert seen == configs.candidates(PROBLEM)
    assert measured.get(PROBLEM) == fastest
    assert Measured(path, "GPU A").get(PROBLEM) == fastest
    assert Measured(path, "GPU B").get(PROBLEM) is None
    assert Measured(path, "GPU A").get(PROBLEM._replace(channels_last=False)) is None
    assert [p.name for p in path.parent.iterdir()] == ["configs.json"]  # nothing half-written stays


def test_what_others_measured_meanwhile_stays(tmp_path):
    path = tmp_path / "configs.json"
    fastest = configs.candidates(PROBLEM)[1]
    other = PROBLEM._replace(kernel_size=5)
    here, there, elsewhere = Measured(path, "GPU A"), Measured(path, "GPU A"), Measured(path, "GPU B")
    here.measure(PROBLEM, timer(fastest)[0])
    there.measure(other, timer(configs.candidates(other)[0])[0])
    elsewhere.measure(PROBLEM, timer(configs.candidates(PROBLEM)[0])[0])
    assert Measured(path, "GPU A").get(PROBLEM) == fastest
    assert Measured(path, "GPU A").get(other) == configs.shipped(other)
    assert Measured(path, "GPU B").get(PROBLEM) == configs.shipped(PROBLEM)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        '{"GPU A": 3}',
        json.dumps({"GPU A": {configs._key(PROBLEM): 3}}),
        json.dumps({"GPU A": {configs._key(PROBLEM): [16, 64]}}),
        json.dumps({"GPU A": {configs._key(PROBLEM): [16, 64, 3, 32, None]}}),
        json.dumps({"GPU A": {configs._key(PROBLEM): [16, 64, 4, 32, "many"]}}),
        json.dumps({"GPU A": {configs._key(PROBLEM): ["16", 64, 4, 32, None]}}),
        "\x00\x01",
    ],
)
def test_a_broken_file_is_a_warning(tmp_path, content):
    path = tmp_path / "configs.json"
    path.write_text(content)
    with pytest.warns(RuntimeWarning, match=r"configs\.json is ignored"):
        measured = Measured(path, "GPU A")
    assert measured.get(PROBLEM) is None
    with pytest.warns(RuntimeWarning):
        measured.measure(PROBLEM, timer(configs.shipped(PROBLEM))[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Measured(path, "GPU A").get(PROBLEM) == configs.shipped(PROBLEM)


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="is ignored"):
        measured = Measured(tmp_path / "file" / "configs.json", "GPU A")
    with pytest.warns(RuntimeWarning, match="can't be written"):
        measured.measure(PROBLEM, timer(configs.shipped(PROBLEM))[0])
    assert measured.get(PROBLEM) == configs.shipped(PROBLEM)


def test_the_file_is_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert configs.cache_path() == tmp_path / "mrda_kernels" / "triton_configs.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert configs.cache_path().parts[-3:] == (".cache", "mrda_kernels", "triton_configs.json")


def choose(monkeypatch, tmp_path, *, tune, capturing=False):
    """Return the tile for a problem on a GPU that is not there, and how often the backend measured."""
    fastest = configs.candidates(PROBLEM)[-1]
    measured, times = Measured(tmp_path / "configs.json", "GPU A"), []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(backend, "_measured", lambda device: measured)
    monkeypatch.setattr(backend, "_seconds", lambda launch, config: times.append(config) or float(config != fastest))
    monkeypatch.setenv(backend.TUNE_VARIABLE, "1" if tune else "0")
    return backend._choose(PROBLEM, lambda config: None), len(times)


def test_only_those_who_ask_for_it_wait_for_measurements(monkeypatch, tmp_path):
    fastest, count = configs.candidates(PROBLEM)[-1], len(configs.candidates(PROBLEM))
    assert choose(monkeypatch, tmp_path, tune=False) == (configs.shipped(PROBLEM), 0)
    assert choose(monkeypatch, tmp_path, tune=True, capturing=True) == (configs.shipped(PROBLEM), 0)
    assert choose(monkeypatch, tmp_path, tune=True) == (fastest, count)
    assert choose(monkeypatch, tmp_path, tune=True) == (fastest, 0)
    assert choose(monkeypatch, tmp_path, tune=False) == (fastest, 0)


# ---- where it serves -----------------------------------------------------------------------------------------------


def ask(code, *, interpret, blocked=False):
    block = "import sys; sys.modules['triton'] = None\n" if blocked else ""
    done = subprocess.run(
        [sys.executable, "-c", f"import os\nos.environ['TRITON_INTERPRET'] = '{interpret}'\n{block}{code}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_says_what_to_install():
    answer = ask("from mrda_kernels.backends import triton; print(triton.why_not('cuda'))", interpret=0, blocked=True)
    assert "pip install 'triton" in answer


@pytest.fixture(scope="module")
def answers():
    """The backend's answers in processes without and with the interpreter."""
    pytest.importorskip("triton")
    code = """
import sys
from mrda_kernels.backends import triton
print("triton" in sys.modules, *map(triton.why_not, ("cpu", "cuda", "mps")), sep="\\n")
print(triton.INTERPRETED and triton.details())
"""
    names = ("imported", "cpu", "cuda", "mps", "details")
    return [dict(zip(names, ask(code, interpret=i).splitlines(), strict=True)) for i in (0, 1)]


@pytest.mark.parametrize(
    ("device", "interpret", "says"),
    [
        ("cpu", 0, "TRITON_INTERPRET=1"),
        ("cpu", 1, "None"),
        ("cuda", 1, "unset it"),
        ("mps", 0, "not mps"),
    ],
)
def test_it_says_why_not(answers, device, interpret, says):
    assert says in answers[interpret][device]


def test_without_a_gpu_it_says_so(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(backend, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU" in backend.why_not("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert backend.why_not("cuda") is None


def test_the_backend_loads_without_importing_triton(answers):
    assert answers[0]["imported"] == "False"


def test_details_name_the_version(answers):
    assert "triton 3." in answers[1]["details"]


def test_dispatch_finds_it():
    assert dispatch.load("triton") is backend
