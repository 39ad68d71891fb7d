"""Against Spandrel itself where it is found, else against a stand-in.

It needs no torchvision here: of what Spandrel imports of that, students use nothing. So
`pip install --no-deps --target FOLDER spandrel einops` and PYTHONPATH=FOLDER are enough to run these tests with it.
"""

import importlib.util
import sys
from types import ModuleType

import pytest
import registry_stub
import torch

from mrda.networks import MLN, MRDAOracle, MRDAStudent, MRDATeacher, to_official
from mrda.networks.prepared import PreparedRDAN

TINY = {"num_feat": 8, "num_blocks": 2, "den_width": 4}


@pytest.fixture(scope="module")
def spandrel():
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("spandrel") is None:
            patch.setitem(sys.modules, "spandrel", registry_stub.module())
        elif importlib.util.find_spec("torchvision") is None:
            for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
                patch.setitem(sys.modules, name, ModuleType(name))
            for name in ("InterpolationMode", "rotate", "normalize"):
                setattr(sys.modules["torchvision.transforms.functional"], name, None)
        patch.delitem(sys.modules, "mrda.integrations.spandrel", raising=False)
        import spandrel

        from mrda.integrations.spandrel import register

        register()
        yield spandrel
        sys.modules.pop("mrda.integrations.spandrel")


def student(**options):
    torch.manual_seed(0)
    return MRDAStudent(**{**TINY, **options}).eval()


def wrapped(state):
    return {"params_ema": state}


FORMS = {
    "ours": lambda network: network.state_dict(),
    "official": to_official,
    "wrapped": lambda network: wrapped(to_official(network)),
    "half": lambda network: {key: tensor.half() for key, tensor in network.state_dict().items()},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{"scale": 2}, {"scale": 3, "kernel_size": 5}, {"scale": 4, "mask_channels": 8}])
def test_students_are_found_and_upscale(spandrel, form, options):
    network = student(**options)
    found = spandrel.ModelLoader().load_from_state_dict(FORMS[form](network))
    if form == "half":
        network.load_state_dict(FORMS[form](network))
    assert found.architecture.id == "MRDA"
    assert found.model.hyperparameters == network.hyperparameters
    assert (found.scale, found.input_channels, found.output_channels) == (options["scale"], 3, 3)
    assert found.purpose == "SR"
    assert found.tags == ["8nf", "2nb"]
    assert found.tiling == spandrel.ModelTiling.INTERNAL
    lr = torch.rand(1, 3, 9, 11)
    with torch.no_grad():
        expected = network(lr).clamp(0, 1)
    # The same float32 operations, but for the layout of the weights: far below one 16-bit level.
    torch.testing.assert_close(found(lr), expected, rtol=0, atol=1 / 65535)


def test_it_cuts_tiles_itself_which_share_the_degradation(spandrel, monkeypatch):
    network = student()
    found = spandrel.ModelLoader().load_from_state_dict(network.state_dict())
    monkeypatch.setattr("mrda.upscale.upscaler.free_memory", lambda _: 2**22)
    sizes = []
    call = PreparedRDAN.__call__

    def noted(trunk, lr, degradation, **options):
        sizes.append(tuple(lr.shape[2:]))
        return call(trunk, lr, degradation)

    monkeypatch.setattr(PreparedRDAN, "__call__", noted)
    lr = torch.rand(1, 3, 80, 90)
    upscaled = found(lr)
    assert len(sizes) > 1
    with torch.no_grad():
        torch.testing.assert_close(upscaled, network(lr).clamp(0, 1), rtol=0, atol=1 / 65535)


def test_bfloat16(spandrel):
    found = spandrel.ModelLoader().load_from_state_dict(student().state_dict())
    assert found.supports_bfloat16
    assert not found.supports_half
    sr = found.bfloat16()(torch.rand(1, 3, 9, 11).bfloat16())
    assert sr.dtype == torch.bfloat16
    assert sr.isfinite().all()


@pytest.mark.parametrize(
    "state",
    [
        to_official(MRDATeacher(**TINY, mln_feat=8)),
        MRDATeacher(**TINY, mln_feat=8).state_dict(),
        MRDAOracle(**TINY).state_dict(),
        to_official(MLN(num_feat=4)),
        MLN(num_feat=4).state_dict(),
    ],
)
def test_no_other_network_is_taken_for_a_student(spandrel, state):
    (support,) = (support for support in spandrel.MAIN_REGISTRY if support.architecture.id == "MRDA")
    assert not support.detect(state)


@pytest.mark.parametrize("form", ["ours", "official"])
def test_students_are_taken_for_nothing_else(spandrel, form):
    state = FORMS[form](student())
    found = [support.architecture.id for support in spandrel.MAIN_REGISTRY if support.detect(state)]
    assert found == ["MRDA"]


def test_a_damaged_state_dict_is_told(spandrel):
    state = student().state_dict()
    del state["rdan.blocks.1.conv2.weight"]
    with pytest.raises(ValueError, match=r"missing: G\.body\.0\.body\.1\.conv2\.weight"):
        spandrel.ModelLoader().load_from_state_dict(state)


def test_registering_twice_changes_nothing(spandrel):
    from mrda.integrations.spandrel import register

    before = list(spandrel.MAIN_REGISTRY)
    register()
    assert list(spandrel.MAIN_REGISTRY) == before
