import pytest
import torch
from torch import nn

from mrda.networks import DEN


@pytest.mark.parametrize(
    ("options", "total"),
    [({}, 1_276_992), ({"in_channels": 128}, 1_348_992), ({"width": 128}, 5_101_696)],
)
def test_published_parameter_counts(options, total):
    assert sum(parameter.numel() for parameter in DEN(**options).parameters()) == total


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 9), (16, 16)])
def test_any_size_gives_one_vector(height, width):
    assert DEN(in_channels=5, width=3)(torch.rand(2, 5, height, width)).shape == (2, 12)


def test_the_last_layer_has_no_activation():
    den = DEN(width=2)
    assert isinstance(den.mlp[-1], nn.Linear)
    nn.init.constant_(den.mlp[-1].bias, -5.0)
    nn.init.zeros_(den.mlp[-1].weight)
    assert torch.equal(den(torch.rand(1, 3, 8, 8)), torch.full((1, 8), -5.0))


def test_hyperparameters_rebuild():
    options = {"in_channels": 5, "width": 3}
    assert DEN(**options).hyperparameters == options


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (torch.rand(1, 4, 8, 8), ValueError, r"x has shape \(1, 4, 8, 8\), but must be \(B, 3, H, W\)"),
        (torch.rand(3, 8, 8), ValueError, "x has shape"),
        (torch.rand(1, 3, 8, 8).half(), TypeError, "x has dtype torch.float16, but must have torch.float32"),
        (
            torch.ones(1, 3, 8, 8, dtype=torch.int32),
            TypeError,
            "x has dtype torch.int32, but must be a floating point tensor",
        ),
    ],
)
def test_bad_input(x, error, match):
    with pytest.raises(error, match=match):
        DEN(width=2)(x)


@pytest.mark.parametrize("name", ["in_channels", "width"])
def test_bad_options(name):
    with pytest.raises(ValueError, match=f"{name} is 0, but must be at least 1"):
        DEN(**{name: 0})


def test_by_hes_rule_the_idr_tells_images_apart_from_the_start():
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) ** torch.arange(1, 9).reshape(
        8, 1, 1, 1
    )

    def spread(den):
        with torch.no_grad():
            idr = den(images)
        return float(idr.std(dim=0).mean() / idr.abs().mean())

    torch.manual_seed(0)
    den = DEN(in_channels=3, width=16)
    assert spread(den) < 0.01
    assert spread(den.initialize_he()) > 0.1
