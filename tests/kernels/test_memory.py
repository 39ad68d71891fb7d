"""The tensors that an operator keeps alive between forward and backward: its inputs, and nothing else."""

import pytest
from calls import Call
from torch.autograd.graph import saved_tensors_hooks

from mrda_kernels import dynamic_depthwise_conv2d, rda_conv2d, reference


def saved_storages(function):
    """Address -> bytes of each storage that autograd keeps."""
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = function()
    assert output.requires_grad
    return saved


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "step2"])
@pytest.mark.parametrize("full_mask", [False, True], ids=["M=1", "M=C"])
def test_only_the_inputs_are_kept(backend, layout, full_mask):
    tensors = [t.requires_grad_() for t in Call((2, 16, 24, 32), layout=layout, full_mask=full_mask).tensors()]
    inputs = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    for slope in (None, 0.1):
        assert saved_storages(lambda s=slope: rda_conv2d(*tensors, output_negative_slope=s, backend=backend)) == inputs
    kept = saved_storages(lambda: dynamic_depthwise_conv2d(*tensors[:2], negative_slope=0.1, backend=backend))
    assert kept == dict(list(inputs.items())[:2])


def test_the_eager_way_keeps_several_times_as_much():
    tensors = [t.requires_grad_() for t in Call((2, 16, 24, 32)).tensors()]
    fused = sum(saved_storages(lambda: rda_conv2d(*tensors, output_negative_slope=0.1)).values())
    eager = sum(saved_storages(lambda: reference.rda_conv2d(*tensors, output_negative_slope=0.1)).values())
    one = tensors[0].nbytes
    assert fused < 1.1 * one  # the input, and small things
    assert eager > 3 * one  # besides it the convolution's result, its activation and the sum
