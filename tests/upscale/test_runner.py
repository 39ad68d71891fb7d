import copy
import pickle
import threading

import pytest
import torch

from mrda.networks import RDAN
from mrda.upscale.runner import GRAPHS, GraphRunner

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
HALF = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def no_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def random_rdan(device="cpu", **options):
    torch.manual_seed(0)
    rdan = RDAN(**{"scale": 2, "num_feat": 16, "num_blocks": 2, "idr_dim": 8} | options).eval().to(device)
    return rdan.to(memory_format=torch.channels_last)


def random_inputs(device="cpu", size=(2, 3, 9, 11), seed=0):
    draws = torch.Generator().manual_seed(seed)
    return (
        torch.rand(size, generator=draws).to(device),
        torch.randn(size[0], 8, generator=draws).to(device),
    )


@pytest.mark.parametrize("device", DEVICES)
def test_float32_is_the_trunk_as_it_is(device):
    rdan, inputs = random_rdan(device), random_inputs(device)
    runner = GraphRunner(rdan.prepare(torch.float32))
    for _ in range(4):
        sr = runner(*inputs)
        torch.testing.assert_close(sr, rdan(*inputs), rtol=1e-5, atol=1e-5)
        assert not sr.requires_grad


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("conv_type", ["rda", "dasr_da", "static"])
def test_half_precision_is_as_near_as_autocast(device, dtype, conv_type):
    rdan, inputs = random_rdan(device, conv_type=conv_type), random_inputs(device)
    with torch.no_grad():
        exact = copy.deepcopy(rdan).double()(*(tensor.double() for tensor in inputs))
        with torch.autocast(device, dtype):
            autocast = rdan(*inputs)
    sr = GraphRunner(rdan.prepare(dtype))(*inputs)
    assert sr.dtype == torch.float32
    error, of_autocast = ((result.double() - exact).square().mean() for result in (sr, autocast))
    assert 0 < error <= 2 * of_autocast


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_images_of_a_single_row_or_column_are_run_in_half_precision_too(dtype):
    rdan = random_rdan()
    for size in ((1, 3, 1, 5), (1, 3, 5, 1), (1, 3, 1, 1)):
        inputs = random_inputs(size=size)
        sr = GraphRunner(rdan.prepare(dtype))(*inputs)
        torch.testing.assert_close(sr, rdan(*inputs).detach(), rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_map_of_features_is_converted_or_copied(dtype):
    """But the last one, in half precision: the last convolution is float32."""
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16 convolutions, so torch converts their inputs itself")
    rdan, inputs = random_rdan(), random_inputs(size=(2, 3, 24, 20))
    inputs = inputs[0].contiguous(memory_format=torch.channels_last), inputs[1]
    runner = GraphRunner(rdan.prepare(dtype))
    runner(*inputs)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        runner(*inputs)
    copies = [event for event in profile.events() if event.name == "aten::copy_" and event.input_shapes]
    assert copies  # small ones there are
    maps = [event for event in copies if event.input_shapes[0] == [2, 16, 24, 20]]
    assert len(maps) == (0 if dtype == torch.float32 else 1)
    kernels = [event for event in copies if event.input_shapes[0][-2:] == [5, 5] and event.input_shapes[0][0] == 12]
    assert kernels == []  # the last convolution's, of which there are nine


@pytest.mark.parametrize("again", [copy.deepcopy, lambda runner: pickle.loads(pickle.dumps(runner))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_can_be_copied_and_pickled_after_a_call(dtype, again):
    runner, inputs = GraphRunner(random_rdan().prepare(dtype)), random_inputs()
    expected = runner(*inputs)
    size = len(pickle.dumps(GraphRunner(random_rdan().prepare(dtype))))
    assert len(pickle.dumps(runner)) == size  # what was kept for later calls stays out
    assert torch.equal(again(runner)(*inputs), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_around_it_has_no_say(dtype):
    runner, inputs = GraphRunner(random_rdan().prepare(dtype)), random_inputs()
    expected = runner(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(runner(*inputs), expected)


def test_wrong_arguments_are_refused_as_by_the_trunk():
    runner, (lr, degradation) = GraphRunner(random_rdan().prepare(torch.bfloat16)), random_inputs()
    runner(lr, degradation)
    for wrong, error in (((lr, degradation[:1]), ValueError), ((lr.double(), degradation), TypeError)):
        with pytest.raises(error):
            runner(*wrong)


@pytest.mark.gpu
def test_a_size_that_comes_again_is_a_graph_and_new_inputs_are_seen():
    rdan = random_rdan("cuda")
    runner = GraphRunner(rdan.prepare(torch.float32))
    for seed in range(4):
        inputs = random_inputs("cuda", seed=seed)
        torch.testing.assert_close(runner(*inputs), rdan(*inputs).detach(), rtol=1e-5, atol=1e-5)
    (graph,) = runner._graphs.values()
    assert graph is not None
    for side in range(2, GRAPHS + 4):
        inputs = random_inputs("cuda", (1, 3, side, 7))
        for _ in range(3):
            torch.testing.assert_close(runner(*inputs), rdan(*inputs).detach(), rtol=1e-5, atol=1e-5)
    assert len(runner._graphs) == GRAPHS


@pytest.mark.parametrize("device", DEVICES)
def test_threads_do_not_mix_up_their_images(device):
    rdan = random_rdan(device)
    runner = GraphRunner(rdan.prepare(torch.float32))
    wrong = []

    def work(seed):
        inputs = random_inputs(device, seed=seed)
        with torch.no_grad():
            expected = rdan(*inputs)
        stream = torch.cuda.Stream() if device == "cuda" else None
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(20):
                if not torch.allclose(runner(*inputs), expected, rtol=1e-5, atol=1e-5):
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
