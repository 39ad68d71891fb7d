import pytest
import torch
from torch.func import functional_call, grad

from mrda.networks import MLN


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("scale", "total"), [(2, 1_482_883), (3, 2_220_803), (4, 2_073_219)])
def test_published_parameter_counts(scale, total):
    assert parameters(MLN(scale=scale)) == total


def test_published_parameter_counts_by_part():
    mln = MLN()
    assert [parameters(part) for part in (mln.head, mln.body, mln.upscaler)] == [3_584, 885_504, 1_184_131]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_shapes(scale):
    mln = MLN(scale=scale, num_feat=4, num_body=2)
    lr = torch.rand(2, 3, 5, 7)
    assert mln.features(lr).shape == (2, 4, 5, 7)
    assert mln(lr, torch.rand(2, 3, 5 * scale, 7 * scale)).shape == (2, 3, 5 * scale, 7 * scale)


def test_lr_up_is_a_global_residual():
    mln = MLN(scale=2, num_feat=4, num_body=1).double()
    lr, lr_up = torch.rand(1, 3, 3, 3).double(), torch.rand(1, 3, 6, 6).double()
    residual = mln(lr, lr_up) - mln(lr, torch.zeros_like(lr_up))
    # One addition each in float64; both sums stay below 4.
    torch.testing.assert_close(residual, lr_up, rtol=0, atol=4 * torch.finfo(torch.float64).eps)


def test_adaptable_parameters():
    mln = MLN(num_feat=4)
    assert mln.adaptable_parameters(freeze_upscaler=False).keys() == dict(mln.named_parameters()).keys()
    frozen = mln.adaptable_parameters(freeze_upscaler=True)
    assert all(name.startswith(("head.", "body.")) for name in frozen)
    assert len(frozen) == 2 + 2 * 6
    assert frozen["head.0.weight"] is mln.head[0].weight


def test_adaptation_through_functional_call_equals_sgd():
    torch.manual_seed(0)
    mln = MLN(scale=2, num_feat=4, num_body=2).double()
    lr, lr_up = torch.rand(1, 3, 4, 4).double(), torch.rand(1, 3, 8, 8).double()
    own = {name: parameter.detach().clone() for name, parameter in mln.named_parameters()}

    def loss(fast):
        return functional_call(mln, {**own, **fast}, (lr, lr_up)).abs().mean()

    fast = {name: own[name] for name in mln.adaptable_parameters(freeze_upscaler=True)}
    gradients = grad(loss)(fast)
    for name, parameter in own.items():
        assert torch.equal(mln.get_parameter(name), parameter)
    mln(lr, lr_up).abs().mean().backward()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, mln.get_parameter(name).grad, rtol=1e-12, atol=1e-15)


def test_hyperparameters_rebuild():
    options = {"scale": 3, "num_feat": 5, "num_body": 2}
    assert MLN(**options).hyperparameters == options


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"scale": 5}, ValueError, "scale is 5, but must be one of 2, 3, 4"),
        ({"scale": 4.0}, TypeError, r"scale is 4\.0, but must be an int"),
        ({"num_feat": 0}, ValueError, "num_feat is 0, but must be at least 1"),
        ({"num_body": True}, TypeError, "num_body is True, but must be an int"),
    ],
)
def test_bad_options(options, error, match):
    with pytest.raises(error, match=match):
        MLN(**options)


@pytest.mark.parametrize(
    ("lr", "lr_up", "error", "match"),
    [
        (
            torch.rand(3, 4, 4),
            torch.rand(1, 3, 8, 8),
            ValueError,
            r"lr has shape \(3, 4, 4\), but must be \(B, 3, H, W\)",
        ),
        (torch.rand(1, 4, 4, 4), torch.rand(1, 3, 8, 8), ValueError, r"lr has shape \(1, 4, 4, 4\), but"),
        (torch.rand(1, 3, 0, 4), torch.rand(1, 3, 0, 8), ValueError, "lr .* must be at least 1 pixel"),
        (torch.rand(1, 3, 4, 4), torch.rand(1, 3, 8, 9), ValueError, r"lr_up has shape .* but must be \(1, 3, 8, 8\)"),
        (torch.rand(1, 3, 4, 4), torch.rand(2, 3, 8, 8), ValueError, "lr_up has shape"),
        (
            torch.ones(1, 3, 4, 4, dtype=torch.uint8),
            torch.rand(1, 3, 8, 8),
            TypeError,
            "lr has dtype torch.uint8, but must be a floating",
        ),
        (torch.rand(1, 3, 4, 4).double(), torch.rand(1, 3, 8, 8), TypeError, "lr has dtype torch.float64"),
        (torch.rand(1, 3, 4, 4), torch.rand(1, 3, 8, 8).double(), TypeError, "lr_up has dtype torch.float64"),
        (torch.rand(1, 3, 4, 4, device="meta"), torch.rand(1, 3, 8, 8), ValueError, "lr is on meta"),
        ([0.5], torch.rand(1, 3, 8, 8), TypeError, "lr is list, but must be a torch.Tensor"),
    ],
)
def test_bad_images(lr, lr_up, error, match):
    with pytest.raises(error, match=match):
        MLN(scale=2, num_feat=2, num_body=1)(lr, lr_up)


def test_autocast_takes_care_of_dtypes():
    mln = MLN(scale=2, num_feat=4, num_body=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sr = mln(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 8, 8))
    assert sr.shape == (1, 3, 8, 8)


def test_lr_up_is_checked_before_any_work(monkeypatch):
    mln = MLN(scale=2, num_feat=2, num_body=1)
    monkeypatch.setattr(mln, "features", lambda lr: pytest.fail("the body ran"))
    with pytest.raises(ValueError, match="lr_up has shape"):
        mln(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 8, 9))
