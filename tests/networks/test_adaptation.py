import copy

import pytest
import torch
from adaptation_by_hand import sgd_by_hand
from torch import Tensor

from mrda.networks import MLN, adaptation

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


@pytest.mark.parametrize("per_image", [True, False])
def test_a_step_is_no_longer_than_its_clipped_gradient(mln, batch, per_image):
    def moved(clip):
        weights = []
        rows = len(batch[0]) if per_image else 1

        def watch(_, fast):
            weights.append(torch.cat([value.reshape(rows, -1) for value in fast.values()], dim=1))

        adaptation.adapt(mln, *batch, inner_lr=[0.5], steps=2, clip=clip, per_image=per_image, watch=watch)
        return (weights[1] - weights[0]).norm(dim=1), (weights[1] - weights[0])

    free, step = moved(None)
    limit = float(free.max()) / 0.5 * 0.6
    clipped, other = moved(limit)
    torch.testing.assert_close(clipped, free.clamp(max=0.5 * limit))
    torch.testing.assert_close(other / clipped[:, None], step / free[:, None])


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


# float16


@pytest.fixture
def training_batch() -> tuple[Tensor, Tensor, Tensor]:
    """A batch of the published size: 16 patches of 64 x 64 px at x4."""
    draws = torch.Generator().manual_seed(2)
    lr, hr = (torch.rand(16, 3, size, size, generator=draws) for size in (64, 256))
    lr_up = torch.nn.functional.interpolate(lr, scale_factor=4)
    # No pixel's error is near zero, where rounding would turn its gradient around.
    return lr, lr_up, lr_up + torch.where(hr < 0.3, -0.5, 0.5)


def in_float16(enabled: bool) -> torch.autocast:
    return torch.autocast("cpu", torch.float16, enabled=enabled)


def movement(mln: MLN, fast: adaptation.Weights) -> Tensor:
    own = dict(mln.named_parameters())
    return torch.cat([(value - own[name]).detach().flatten() for name, value in fast.items()])


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# Forward and backward, a handful of layers round to 11 bits each; and the fraction of LeakyReLUs that such a rounding
# takes over their kink, each a term of a sum of random signs, counts with its root.
HALF = 12 * 2**-11 + (2 * 2**-11) ** 0.5


@pytest.mark.parametrize(("per_image", "freeze_upscaler"), [(False, True), (False, False), (True, True)])
def test_adaptation_in_float16_moves_as_in_float32(training_batch, per_image, freeze_upscaler):
    torch.manual_seed(0)
    mln = MLN(scale=4, num_feat=4, num_body=2)
    options = {"steps": 2, "per_image": per_image, "freeze_upscaler": freeze_upscaler}
    moved = []
    for half in (False, True):
        with in_float16(half):
            fast = adaptation.adapt(mln, *training_batch, **options)
        assert {value.dtype for value in fast.values()} == {torch.float32}
        moved.append(movement(mln, fast))
    assert relative(moved[1], moved[0]) <= HALF


def test_second_order_gradients_in_float16_are_those_in_float32(training_batch):
    lr, lr_up, hr = (images[:8] for images in training_batch)
    torch.manual_seed(0)
    mln = MLN(scale=4, num_feat=4, num_body=4)
    scale = 2.0**12  # of the training's own loss, which begins with 2^16 and falls where that overflows
    parameters = list(mln.adaptable_parameters(True).values())
    found: dict[tuple[bool, bool], Tensor] = {}
    for half in (False, True):
        for second_order in (False, True):
            with in_float16(half):
                fast = adaptation.adapt(mln, lr[:4], lr_up[:4], hr[:4], steps=2, second_order=True)
                weights = fast if second_order else {n: v.detach().requires_grad_() for n, v in fast.items()}
                loss = (adaptation.restore(mln, weights, lr[4:], lr_up[4:]) - hr[4:]).abs().mean()
            gradients = torch.autograd.grad(scale * loss, parameters if second_order else list(weights.values()))
            found[half, second_order] = torch.cat([gradient.flatten() for gradient in gradients]) / scale
    # What second order adds is small beside the gradient, but has to be right by itself.
    added, added_in_half = (found[half, True] - found[half, False] for half in (False, True))
    assert relative(found[True, True], found[False, True]) <= HALF
    assert relative(added_in_half, added) <= HALF
