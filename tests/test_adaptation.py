import copy

import pytest
import torch
from torch import Tensor

from mrda import adaptation
from mrda.networks import MLN

EPS = torch.finfo(torch.float64).eps


@pytest.fixture
def mln() -> MLN:
    torch.manual_seed(0)
    return MLN(scale=2, num_feat=4, num_body=2).double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """LR, its enlargement and HR."""
    draws = torch.Generator().manual_seed(1)
    shapes = [(3, 3, 6, 5), (3, 3, 12, 10), (3, 3, 12, 10)]
    lr, lr_up, hr = (torch.rand(shape, generator=draws, dtype=torch.float64) for shape in shapes)
    return lr, lr_up, hr


def sgd_by_hand(mln, lr, lr_up, hr, rates, freeze_upscaler):
    mln = copy.deepcopy(mln).requires_grad_()
    for rate in rates:
        mln.zero_grad()
        (mln(lr, lr_up) - hr).abs().mean().backward()
        with torch.no_grad():
            for name, parameter in mln.named_parameters():
                if not (freeze_upscaler and name.startswith("upscaler.")):
                    parameter -= rate * parameter.grad
    return dict(mln.named_parameters())


@pytest.mark.parametrize("freeze_upscaler", [True, False])
@pytest.mark.parametrize("gradients_are_on", [True, False])
def test_adaptation_is_sgd_on_a_copy(mln, batch, freeze_upscaler, gradients_are_on):
    before = copy.deepcopy(mln.state_dict())
    with torch.set_grad_enabled(gradients_are_on):
        fast = adaptation.adapt(mln, *batch, inner_lr=[0.5, 0.1], steps=4, freeze_upscaler=freeze_upscaler)
    expected = sgd_by_hand(mln, *batch, [0.5, 0.1, 0.1, 0.1], freeze_upscaler)
    assert any(name.startswith("upscaler.") for name in fast) != freeze_upscaler
    for name, value in fast.items():
        torch.testing.assert_close(value, expected[name].detach(), rtol=0, atol=0)
        assert not value.requires_grad
        assert not torch.equal(value, before[name])
    torch.testing.assert_close(mln.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in mln.parameters())


def test_no_steps_give_the_networks_own_weights(mln, batch):
    fast = adaptation.adapt(mln, *batch, steps=0, freeze_upscaler=False)
    assert fast.keys() == mln.state_dict().keys()
    for name, parameter in mln.named_parameters():
        assert torch.equal(fast[name], parameter)
        assert fast[name] is not parameter


def test_each_image_of_its_own_is_adapted_as_if_alone(mln, batch):
    lr, lr_up, hr = batch
    fast = adaptation.adapt(mln, *batch, steps=3, per_image=True)
    features = adaptation.features(mln, fast, lr, per_image=True)
    sr = adaptation.restore(mln, fast, lr, lr_up, per_image=True)
    for index in range(len(lr)):
        one = slice(index, index + 1)
        alone = adaptation.adapt(mln, lr[one], lr_up[one], hr[one], steps=3)
        for name, value in alone.items():
            # The same sums of some hundred products of values below 1, in another order.
            torch.testing.assert_close(fast[name][index], value, rtol=0, atol=500 * EPS)
        torch.testing.assert_close(features[one], adaptation.features(mln, alone, lr[one]), rtol=0, atol=500 * EPS)
        torch.testing.assert_close(sr[one], adaptation.restore(mln, alone, lr[one], lr_up[one]), rtol=0, atol=500 * EPS)
    joint = adaptation.adapt(mln, *batch, steps=3)
    assert all((fast[name][0] - joint[name]).abs().max() > 1e-6 for name in joint)


@pytest.mark.parametrize("freeze_upscaler", [True, False])
def test_second_order_gradients_are_those_of_finite_differences(mln, batch, freeze_upscaler):
    lr, lr_up, hr = batch
    names = list(mln.adaptable_parameters(freeze_upscaler))

    def outer(second_order: bool) -> Tensor:
        fast = adaptation.adapt(
            mln, *batch, steps=3, inner_lr=[5.0], freeze_upscaler=freeze_upscaler, second_order=second_order
        )
        return (adaptation.restore(mln, fast, lr.flip(0), lr_up.flip(0)) - hr.flip(0)).abs().mean()

    parameters = dict(mln.named_parameters())
    gradients = torch.autograd.grad(outer(True), [parameters[name] for name in names])
    # The gradient of an L1 loss over LeakyReLUs jumps at kinks, and then the adapted weights do, too: the steps are
    # short, so that none is crossed. The loss carries some fifty eps of rounding, and so does its difference.
    step, budget = 1e-8, 50 * EPS / 1e-8
    for name, gradient in zip(names, gradients, strict=True):
        for index in [tuple(0 for _ in gradient.shape), tuple(size // 2 for size in gradient.shape)]:
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameters[name][index] += sign * step
                values.append(outer(True).item())
                with torch.no_grad():
                    parameters[name][index] -= sign * step
            difference = (values[0] - values[1]) / (2 * step)
            assert abs(difference - gradient[index].item()) <= budget
    assert outer(True).item() == outer(False).item()


def test_second_order_differs_from_first(mln, batch):
    lr, lr_up, hr = batch
    fast = adaptation.adapt(mln, *batch, steps=3, inner_lr=[5.0], second_order=True)
    leaves = {name: value.detach().requires_grad_() for name, value in fast.items()}
    parameter = mln.head[0].weight

    def outer(weights):
        return (adaptation.restore(mln, weights, lr.flip(0), lr_up.flip(0)) - hr.flip(0)).abs().mean()

    (second,) = torch.autograd.grad(outer(fast), parameter)
    (first,) = torch.autograd.grad(outer(leaves), leaves["head.0.weight"])
    assert (second - first).abs().max() > 0.01 * first.abs().max()


def test_gradients_pass_through_sync_and_steps_are_watched(mln, batch):
    seen = []
    fast = adaptation.adapt(
        mln,
        *batch,
        steps=2,
        sync=lambda gradients: [torch.zeros_like(gradient) for gradient in gradients],
        watch=lambda step, weights: seen.append((step, weights["head.0.weight"])),
    )
    assert [step for step, _ in seen] == [0, 1, 2]
    assert all(torch.equal(weight, mln.head[0].weight) for _, weight in seen)
    assert torch.equal(fast["head.0.weight"], mln.head[0].weight)
