import sys

import pytest
import spandrel_stub
import torch
from torch.nn import functional as F

from mrda.evaluation.peers import load_peer, load_peers
from mrda.evaluation.samples import Condition, make_sample
from mrda.networks import DASR, KDSRStudent, save_network, to_official


@pytest.fixture
def spandrel(monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", spandrel_stub.module())


@pytest.fixture
def store(tmp_path):
    def store(name="SwinIR.pth", **options):
        torch.save(spandrel_stub.network(**options), tmp_path / name)
        return tmp_path / name

    return store


@pytest.fixture
def sample():
    hr = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    return make_sample(hr, Condition("bicubic", None), 2, image="a")


def test_a_peer_upscales_lr(spandrel, store, sample):
    peer = load_peer(store(offset=0.25))
    assert (peer.name, peer.scale) == ("SwinIR", 2)
    expected = (F.interpolate(sample.lr, scale_factor=2) + 0.25).clamp(0, 1)
    assert torch.equal(peer.method(sample._replace(hr=None, lr_up=None)), expected)


@pytest.mark.parametrize("network", [DASR, KDSRStudent])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_sisters_need_no_spandrel(network, suffix, tmp_path, sample, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    sizes = {"scale": 2, "num_feat": 8, "num_blocks": 1}
    sister = network(**sizes)
    state = {key: tensor for key, tensor in to_official(sister).items() if tensor.is_floating_point()}
    path = tmp_path / f"sister{suffix}"
    torch.save(state, path) if suffix == ".pt" else save_network(sister, path)
    peer = load_peer(path)
    assert (peer.name, peer.scale) == ("sister", 2)
    expected = sister.eval()(sample.lr).detach().clamp(0, 1)
    torch.testing.assert_close(peer.method(sample), expected, rtol=1e-4, atol=1e-5)
    if suffix == ".pt":
        state.pop("G.head.0.bias")
        torch.save(state, path)
        with pytest.raises(ValueError, match=r"sister\.pt must have exactly the network's keys; missing: G\.head"):
            load_peer(path)


def test_what_a_peer_does_to_its_input_stays_with_it(spandrel, store, sample):
    lr = sample.lr.clone()
    assert torch.equal(load_peer(store(spoils=True)).method(sample), F.interpolate(lr, scale_factor=2))
    assert torch.equal(sample.lr, lr)


def test_a_photo_that_a_peer_cannot_take_is_a_value_error(spandrel, store, sample):
    with pytest.raises(ValueError, match="SwinIR can't upscale an LR of 12x16 pixels: Padding size should be less"):
        load_peer(store(smallest=13)).method(sample)


def test_running_out_of_memory_is_no_fault_of_the_photo(spandrel, store, sample, monkeypatch):
    peer = load_peer(store())
    message = "DefaultCPUAllocator: can't allocate memory"
    monkeypatch.setattr(F, "interpolate", lambda *_, **__: (_ for _ in ()).throw(RuntimeError(message)))
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        peer.method(sample)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"purpose": "FaceSR"}, "holds a network for FaceSR, but must hold one for SR"),
        ({"purpose": "Restoration", "scale": 1}, "holds a network for Restoration"),
        ({"purpose": "Inpainting"}, "holds a network for Inpainting"),
        ({"channels": (1, 1)}, "makes 1 channels of 1, but must make RGB of RGB"),
        ({"channels": (4, 3)}, "makes 3 channels of 4"),
        ({"scale": 8}, "upscales by 8, but must upscale by 2, 3 or 4"),
        ({"scale": 1}, "upscales by 1"),
        ({"name": "SwinIR.onnx"}, r"can't be loaded by Spandrel: Unsupported model file extension \.onnx$"),
    ],
)
def test_what_is_no_sr_network_for_photos_is_refused(spandrel, store, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        load_peer(store(**options))
    assert "SwinIR" in str(caught.value)


def test_files_that_spandrel_cannot_load_are_refused(spandrel, tmp_path):
    with pytest.raises(ValueError, match=r"no weights file .*gone\.pth"):
        load_peer(tmp_path / "gone.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth holds a network whose architecture Spandrel does not know"):
        load_peer(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("milk, bread\n")
    with pytest.raises(ValueError, match=r"text\.pth can't be loaded by Spandrel"):
        load_peer(tmp_path / "text.pth")
    torch.save(spandrel_stub.network(surprise=1), tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth can't be loaded by Spandrel: .*surprise"):
        load_peer(tmp_path / "odd.pth")


def test_without_spandrel_the_package_is_named(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ValueError, match=r"pip install './mrda\[peers\]'") as caught:
        load_peer(store())
    assert "torchvision" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_peers_share_a_scale_and_have_names_of_their_own(spandrel, store, tmp_path):
    first, second, other = store("a.pth"), store("b.pth"), store("c.pth", scale=4)
    assert [peer.name for peer in load_peers([second, first], scale=None, taken=["bicubic"])] == ["b", "a"]
    assert [peer.name for peer in load_peers([other], scale=4, taken=[])] == ["c"]
    assert load_peers([], scale=None, taken=[]) == []
    with pytest.raises(ValueError, match=r"c\.pth upscales by 4, but must upscale by 2 to be compared"):
        load_peers([first, other], scale=None, taken=[])
    with pytest.raises(ValueError, match=r"a\.pth upscales by 2, but must upscale by 3"):
        load_peers([first], scale=3, taken=[])
    (tmp_path / "more").mkdir()
    for taken, files in ((["a"], [first]), ([], [first, store("more/a.pth")])):
        with pytest.raises(ValueError, match=r"a\.pth would be called a, and that name is taken"):
            load_peers(files, scale=2, taken=taken)
